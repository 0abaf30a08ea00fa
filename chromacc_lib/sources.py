"""Sources: the bytes of a file, local or remote; of a remote one only those that are needed.

A remote file is named by its URL, and read by HTTP range requests through a block cache on disk. The cache
holds a sparse copy, in which bytes stand where they stand in the remote file, and a journal of the ranges that
are there; a rerun asks the network for nothing. Threads share one `RemoteFile` an address, and processes that
share the cache take turns at each file by a lock, so that no byte is fetched twice. Whole files are fetched by
`download`, which resumes, verifies and renames.
"""

import fcntl
import gzip
import hashlib
import json
import os
import re
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
import pooch
import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.problems import FileProblem, Problem

__all__ = [
    "ByteSource", "LocalFile", "RemoteFile", "cache_folder", "download", "download_all", "file_md5",
    "http_session", "is_url", "open_source", "require_file", "split_budget", "text_lines",
]

SCHEMES = ("http", "https")
TIMEOUT_S = (10, 60)    # to connect; between two packets
TRIES = 5               # of one request, with waits of 0.5, 1, 2, ... s, or what Retry-After says
BACKOFF_S = 0.5
RETRIED = (429, 500, 502, 503, 504)
CONNECTIONS = 8         # ranges of one file fetched side by side
HEAD_BYTES = 16 << 10   # the first request: a bigWig's header and most of its chromosome list
WASTE = 0.2             # share of unwanted bytes that may be read along, to join neighbouring ranges
LONGEST_RANGE = 8 << 20
CHUNK_BYTES = 64 << 10  # a connection that drops loses no more than this


# --- local --------------------------------------------------------------------------------------------------
def require_file(path: Path) -> None:
    """Raise FileProblem unless `path` is a readable file with something in it."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise FileProblem(
            Problem(str(path), 0, "missing file", got, "a file", "Correct the path, or fetch the file."))
    if not os.access(path, os.R_OK):
        raise FileProblem(Problem(str(path), 0, "unreadable file", "no permission to read", "read permission",
                                  "Change its permissions (chmod u+r)."))
    if path.stat().st_size == 0:
        raise FileProblem(Problem(str(path), 0, "empty file", "0 bytes", "data", "Fetch the file again."))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (1-based number, line without its end) of a plain or gzipped UTF-8 file, which is not held whole.

    A byte-order mark and CRLF are tolerated. Raises FileProblem when the file is missing, empty, cut, or no text.
    """
    require_file(path)
    with open(path, "rb") as handle:
        zipped = handle.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig") as text:
            yield from ((i, line.rstrip("\n")) for i, line in enumerate(text, start=1))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileProblem(Problem(str(path), 0, "truncated or corrupt gzip file", str(error),
                                  "a whole gzip file", "Fetch the file again.")) from error
    except UnicodeDecodeError as error:
        raise FileProblem(Problem(str(path), 0, "not a text file", f"byte {error.object[error.start]:#04x}",
                                  "UTF-8 text", "Check that this is the file that you meant.")) from error


def file_md5(path: str | Path) -> str:
    """Return the hex md5 of a file; within one process a file with the same size and time is read once."""
    stat = os.stat(path)
    return _md5(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _md5(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()


class ByteSource(Protocol):
    """Where the bytes of a file come from: a local file, or a remote one read by ranges.

    `name` for messages, `size` in bytes; `gap`: unwanted bytes that are cheaper to read than to step over.
    """

    name: str
    size: int
    gap: int

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly these bytes. Raises ChromaccError where they cannot be had."""

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Get ready (offset, size) ranges that will be read soon; a local file has nothing to do."""

    def missing(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the (offset, size) requests that `prefetch` would make for these ranges."""

    def close(self) -> None:
        """Give back what is held open."""


class LocalFile:
    """A file on disk as a ByteSource. Raises FileProblem when it is not there, or empty."""

    gap = 64 << 10

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        require_file(Path(path))
        self._file = open(path, "rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly these bytes; raises ChromaccError past the file's end."""
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise FileProblem(Problem(self.name, 0, "truncated file", f"{self.size} bytes",
                                      f"{size} bytes from byte {offset}", "Fetch the file again."))
        return data

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Do nothing: the operating system reads ahead."""

    def missing(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return nothing: all of the file is here."""
        return []

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_source(entry: str | Path) -> ByteSource:
    """Open a file by path or by URL (through the block cache). Raises ChromaccError when it is not there.

    Within a process an address is opened once, and shared: what one thread fetches, the others have.
    """
    return _shared_remote(str(entry), cache_folder()) if is_url(str(entry)) else LocalFile(entry)


def cache_folder() -> Path:
    """Return the folder of the block cache: CHROMACC_CACHE, or data/cache in the project."""
    return Path(os.environ.get("CHROMACC_CACHE") or project_path("data/cache"))


# --- remote -------------------------------------------------------------------------------------------------
def is_url(entry: str) -> bool:
    """Tell a web address from a path. A scheme other than http(s) counts as an address, and is refused later."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", entry) is not None


def require_http(url: str) -> None:
    """Raise ChromaccError unless the address is http or https with a host."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise ChromaccError(f"{url}: got an address of scheme {parts.scheme!r}; needed http or https with a "
                            "host, or a path. Correct the manifest")


def http_session() -> requests.Session:
    """Return a session that retries what is worth retrying, and honours Retry-After."""
    retry = Retry(total=TRIES - 1, backoff_factor=BACKOFF_S, status_forcelist=RETRIED, allowed_methods=("GET", "HEAD"),
                  raise_on_status=False)
    session = requests.Session()
    for scheme in SCHEMES:
        session.mount(f"{scheme}://", HTTPAdapter(max_retries=retry, pool_maxsize=CONNECTIONS))
    return session


@dataclass(frozen=True)
class _Identity:
    """What tells one version of a remote file from another."""

    url: str
    size: int
    etag: str
    modified: str


# --- one remote file ----------------------------------------------------------------------------------------
class RemoteFile:
    """A remote file as a source of bytes, of which only what is asked for is fetched, once.

    name: its URL; size: bytes; fetched: bytes that came over the network since it was opened; requests: how
    many answers brought them. cache: folder for the sparse copies of all files. It may be used by several
    threads, and its cache by several processes: whoever fetches holds the file's lock, and first takes up
    what others fetched before. Raises ChromaccError for an address that is no http(s), a missing file, a
    server without range support, or a cache that cannot be locked.
    """

    gap = 0  # what lies between wanted ranges may not have been fetched

    def __init__(self, url: str, cache: str | Path, session: requests.Session | None = None) -> None:
        require_http(url)
        self.name, self.fetched, self.requests = url, 0, 0
        self._session = session or http_session()
        self._fetching = threading.Lock()  # held while fetching, with the lock on disk
        self._lock = threading.Lock()      # held for a moment, while ranges and journal change
        self._address = url
        self._folder = Path(cache) / hashlib.sha256(url.encode()).hexdigest()[:32]
        self._identity: _Identity | None = None
        self._forget()
        with self._exclusive():
            if self._identity is None:
                self._begin()
        self.size = self._identity.size

    # --- the cache
    @property
    def _journal(self) -> Path:
        return self._folder / "ranges.jsonl"

    def _forget(self) -> None:
        """Know of no range: sorted, disjoint (first, past the last) bytes, int64, shape=(n, 2)."""
        self._ranges = np.empty((0, 2), dtype=np.int64)
        self._taken_up, self._inode = 0, (0, 0)  # bytes of the journal that are known, and which journal

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads and processes from fetching, and take up what they fetched before."""
        with self._fetching, _file_lock(self._folder.with_suffix(".lock")):
            self._take_up()
            yield

    @property
    def version(self) -> str:
        """What the server calls this version of the file: its ETag, else its date; "" = nothing."""
        return self._identity.etag or self._identity.modified

    def is_current(self) -> bool:
        """Say whether the copy on disk is still the one that was opened; a cache may be deleted at any time."""
        try:
            stat = os.stat(self._journal)
        except FileNotFoundError:
            return False
        return (stat.st_dev, stat.st_ino) == self._inode

    def _take_up(self) -> None:
        """Read what was added to the journal; where there is another one, or none, begin anew."""
        if not self.is_current():
            self._forget()
        try:
            journal = open(self._journal, "r+b")
        except FileNotFoundError:
            if self._identity is not None:
                self._begin()
            return
        with journal:
            stat = os.fstat(journal.fileno())
            journal.seek(self._taken_up)
            text = journal.read().decode()
            if text and not text.endswith("\n"):
                journal.write(b"\n")  # a line that a killed run left half written
                text += "\n"
        lines = text.splitlines()
        if not self._taken_up:
            self._require_same_identity(_Identity(**json.loads(lines.pop(0))))
        found = [json.loads(line) for line in lines if re.fullmatch(r"\[\d+, \d+\]", line)]
        with self._lock:
            self._ranges = _joined(np.concatenate([self._ranges, np.array(found, dtype=np.int64).reshape(-1, 2)]))
            self._taken_up += len(text.encode())
            self._inode = (stat.st_dev, stat.st_ino)

    def _require_same_identity(self, found: _Identity) -> None:
        if self._identity not in (None, found):
            raise ChromaccError(f"{self.name}: its copy {self._folder} was replaced by one of another version while "
                                "it was being read; start again")
        self._identity = found

    def _begin(self) -> None:
        """Ask the server for the first bytes, and so for the file's size and version; start its copy."""
        data, answer = self._get(0, HEAD_BYTES)
        total = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if total is None:
            raise ChromaccError(f"{self.name}: the server does not tell the file's size; got Content-Range "
                                f"{answer.headers.get('Content-Range')!r}. Download the file whole")
        self._identity = _Identity(self.name, int(total[1]), answer.headers.get("ETag", ""),
                                   answer.headers.get("Last-Modified", ""))
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "data").touch()
        new = self._folder / "ranges.jsonl.new"
        new.write_text(json.dumps(vars(self._identity)) + "\n")
        os.replace(new, self._journal)
        self._take_up()
        self._keep(0, data)

    def _keep(self, offset: int, data: bytes) -> None:
        """Write bytes to the copy, then to its journal: a killed run leaves at most bytes nobody trusts."""
        line = json.dumps([offset, offset + len(data)]) + "\n"
        with self._lock:
            with open(self._folder / "data", "r+b") as copy:
                copy.seek(offset)
                copy.write(data)
            with open(self._journal, "a") as journal:
                journal.write(line)
            self._taken_up += len(line)
            self._ranges = _with_range(self._ranges, offset, offset + len(data))
            self.fetched += len(data)
            self.requests += 1

    # --- reading
    def read(self, offset: int, size: int) -> bytes:
        """Return exactly these bytes, from the copy where it has them."""
        self.prefetch([(offset, size)])
        try:
            with open(self._folder / "data", "rb") as copy:
                data = os.pread(copy.fileno(), size, offset)
        except FileNotFoundError as error:
            raise ChromaccError(f"{self._folder}: the copy of {self.name} was removed while it was read; start "
                                "again") from error
        if len(data) != size:
            raise ChromaccError(f"{self._folder}: the copy of {self.name} was cut; delete this folder")
        return data

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch what the copy lacks of these (offset, size) ranges, joined into few requests, in parallel."""
        if not self.missing(ranges):
            return
        with self._exclusive():
            wanted = self.missing(ranges)  # another thread or process may have fetched them meanwhile
            if len(wanted) == 1:
                self._fetch(*wanted[0])
            elif wanted:
                with ThreadPoolExecutor(min(CONNECTIONS, len(wanted))) as pool:
                    for job in [pool.submit(self._fetch, *one) for one in wanted]:
                        job.result()

    def missing(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the (offset, size) requests that `prefetch` would make for these ranges."""
        have, absent = self._ranges, []  # an array is replaced, never changed
        for offset, size in ranges:
            absent += _absent(have, offset, min(offset + size, self.size))
        return split_budget(absent, WASTE, LONGEST_RANGE)

    def _fetch(self, offset: int, size: int) -> None:
        """Fetch a range; where the connection drops, keep what came, and ask for the rest."""
        tries = 0
        while size and tries < TRIES:
            data, _ = self._get(offset, size)
            tries = 0 if data else tries + 1
            self._keep(offset, data)
            offset, size = offset + len(data), size - len(data)
        if size:
            raise ChromaccError(f"{self.name}: bytes {offset}-{offset + size - 1} did not come in {TRIES} tries; "
                                "try again later: what came is kept")

    def _get(self, offset: int, size: int) -> tuple[bytes, requests.Response]:
        """Ask for one range; return what came of it, and the answer. A redirection's end is remembered."""
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", "Accept-Encoding": "identity"}
        answer = _request(self._session, self._address, headers, self.name)
        if answer.status_code in (401, 403) and self._address != self.name:  # a signed address has expired
            answer.close()
            self._address = self.name
            answer = _request(self._session, self._address, headers, self.name)
        if answer.status_code == 200:
            answer.close()
            raise ChromaccError(f"{self.name}: the server does not serve ranges (it answered 200, needed 206); "
                                "fetch the file whole (remote_tracks=download)")
        _require_ok(answer, self.name)
        _require_from(answer, offset, self.name)
        self._require_same_version(answer)
        self._address = answer.url
        return _body(answer, size), answer

    def _require_same_version(self, answer: requests.Response) -> None:
        known = self._identity
        if known is None:
            return
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        now = (total, answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))
        if now != (str(known.size), known.etag, known.modified):
            answer.close()
            raise ChromaccError(
                f"{self.name}: the file has changed on the server since its first bytes were read (size "
                f"{known.size:,}, ETag {known.etag or 'none'}, {known.modified or 'no date'} then; {now[0]}, "
                f"{now[1] or 'none'}, {now[2] or 'no date'} now); delete {self._folder}, and start again")

    def close(self) -> None:
        """Do nothing: no file is held open between two reads, and others may share this one."""


_OPENED: dict[tuple[str, str], RemoteFile] = {}  # by URL and cache folder, for the life of the process
_OPENING: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
_REGISTRY = threading.Lock()


def _shared_remote(url: str, cache: Path) -> RemoteFile:
    """Return this process's one RemoteFile of an address, opened where it is not, or its copy was deleted."""
    key = (url, str(cache))
    with _REGISTRY:
        opening = _OPENING[key]
    with opening:  # of one address at a time: another one may be slow to answer
        remote = _OPENED.get(key)
        if remote is None or not remote.is_current():
            remote = _OPENED[key] = RemoteFile(url, cache)
    return remote


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold a lock that is seen by every process that shares the folder; a killed one lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise ChromaccError(f"{path}: cannot be locked ({error}); needed a cache on a file system with locks: "
                                "set CHROMACC_CACHE to a folder on one") from error
        yield


def _joined(ranges: np.ndarray) -> np.ndarray:
    """Return (first, past the last) ranges, int64, shape=(n, 2), sorted, and joined where they touch."""
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ranges[:, 1])
    begins = np.flatnonzero(np.append(True, ranges[1:, 0] > reach[:-1])) if len(ranges) else np.arange(0)
    return np.stack([ranges[begins, 0], np.append(reach[begins[1:] - 1], reach[-1:])], axis=1)


def _with_range(ranges: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return sorted, disjoint ranges with one more, joined where they touch."""
    i = int(np.searchsorted(ranges[:, 1], first, side="left"))
    j = int(np.searchsorted(ranges[:, 0], last, side="right"))
    if i < j:
        first, last = min(first, int(ranges[i, 0])), max(last, int(ranges[j - 1, 1]))
    return np.concatenate([ranges[:i], np.array([[first, last]], dtype=np.int64), ranges[j:]])


def _absent(have: np.ndarray, first: int, last: int) -> list[tuple[int, int]]:
    """Return the (first, past the last) parts of a range that the sorted, disjoint ranges `have` lack."""
    out = []
    i = int(np.searchsorted(have[:, 1], first, side="right"))
    while first < last:
        if i == len(have) or have[i, 0] >= last:
            out.append((first, last))
            break
        if have[i, 0] > first:
            out.append((first, int(have[i, 0])))
        first = int(have[i, 1])
        i += 1
    return out


def split_budget(ranges: Sequence[tuple[int, int]], waste: float, longest: int) -> list[tuple[int, int]]:
    """Join (first, past the last) ranges into requests, the narrowest gaps first, within a budget of waste.

    waste: unwanted bytes in all, as a share of the wanted. Returns (offset, size), sorted, of `longest` bytes
    at most each. So few requests are made, and never more than 1 + `waste` times the bytes that are needed.
    """
    merged: list[list[int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    if not merged:
        return []
    begins, ends = np.array(merged, dtype=np.int64).T
    gaps = begins[1:] - ends[:-1]
    order = np.argsort(gaps, kind="stable")
    affordable = np.cumsum(gaps[order]) <= waste * int((ends - begins).sum())
    bridged = np.zeros(len(gaps), dtype=bool)
    bridged[order[affordable]] = True
    cut = np.append(np.flatnonzero(~bridged), len(begins) - 1)
    starts = begins[np.append(0, cut[:-1] + 1)]
    return [(at, min(longest, last - at)) for first, last in zip(starts.tolist(), ends[cut].tolist())
            for at in range(first, last, longest)]


def _request(session: requests.Session, address: str, headers: dict[str, str], name: str
             ) -> requests.Response:
    try:
        return session.get(address, headers=headers, timeout=TIMEOUT_S, stream=True)
    except requests.RequestException as error:
        raise ChromaccError(f"{name}: cannot be reached ({error}); check the address and the network, and "
                            "try again: what came so far is kept") from error


def _body(answer: requests.Response, most: int) -> bytes:
    """Return what came of an answer's body; a connection that drops leaves it short, and the caller asks again."""
    data = bytearray()
    try:
        for part in answer.iter_content(CHUNK_BYTES):
            data += part
            if len(data) > most:
                answer.close()
                break
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
        answer.close()
    return bytes(data[:most])


def _require_from(answer: requests.Response, offset: int, name: str) -> None:
    """Raise ChromaccError unless a partial answer begins at the byte that was asked for."""
    found = answer.headers.get("Content-Range", "")
    if not found.startswith(f"bytes {offset}-"):
        answer.close()
        raise ChromaccError(f"{name}: asked for bytes from {offset}, the server answered Content-Range {found!r}; "
                            "needed what was asked for. A proxy may be at fault: try again, or fetch the file otherwise")


def _require_ok(answer: requests.Response, name: str) -> None:
    if answer.status_code in (200, 206):
        return
    answer.close()
    remedies = {404: "the accession may be archived or the address mistyped", 403: "access is not allowed",
                416: "the file is shorter than its index says"}
    remedy = remedies.get(answer.status_code, f"it was asked {TRIES} times; try again later")
    raise ChromaccError(f"{name}: the server answered {answer.status_code} {answer.reason}; {remedy}")


# --- whole files --------------------------------------------------------------------------------------------
def download(url: str, folder: str | Path, md5: str = "", size: int = 0,
             session: requests.Session | None = None, advance: Callable[[int], object] = int) -> Path:
    """Fetch a whole file into `folder`, under the address's own name, and return its path.

    What is there already is not fetched again where its md5 fits. md5: hex; "" = not known, and then only the
    length is checked. advance: called with the bytes of each packet. A download that was cut goes on where
    it stopped; the file appears under its name when it is whole. Raises ChromaccError for all else.
    """
    require_http(url)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
    session = session or http_session()
    pooch.get_logger().setLevel("WARNING")
    there = folder / _file_name(url)
    if md5 and there.is_file() and file_md5(there) == md5.lower():
        advance(there.stat().st_size)
        return there
    if not md5 and size and there.is_file() and there.stat().st_size != size:
        there.unlink()  # of no known checksum, and of another length: fetched again

    def fetch(address: str, target: str, _: object) -> None:
        """Resume into the part file beside it, then hand it over: pooch itself would start anew each time."""
        _resume(session, address, part, size, advance)
        os.replace(part, target)

    try:
        path = pooch.retrieve(url, known_hash=f"md5:{md5.lower()}" if md5 else None, fname=_file_name(url),
                              path=folder, downloader=fetch)
    except ValueError as error:  # pooch's word for a hash that does not fit; its temporary file is gone
        raise ChromaccError(f"{url}: {error}; correct the md5 in the manifest, or try again") from error
    return Path(path)


def _file_name(url: str) -> str:
    """Return a name that cannot leave its folder: the address's last part, made plain."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", unquote(urlsplit(url).path).rpartition("/")[2]).lstrip(".")
    return name or hashlib.sha256(url.encode()).hexdigest()[:16]


def _resume(session: requests.Session, url: str, part: Path, size: int,
            advance: Callable[[int], object]) -> None:
    """Fetch what `part` lacks of a file, appending; a server without ranges is read from the start."""
    tries = 0
    while tries < TRIES:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        answer = _request(session, url, headers, url)
        if answer.status_code == 416 and have:  # nothing is left to fetch, or the part is another file's
            whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
            answer.close()
            if whole == str(have):
                return
            part.unlink()
            continue
        _require_ok(answer, url)
        if answer.status_code == 206:
            _require_from(answer, have, url)
        have = have if answer.status_code == 206 else 0
        total = have + int(answer.headers.get("Content-Length", -have - 1))
        if size and total >= 0 and total != size:
            answer.close()
            raise ChromaccError(f"{url}: the server has {total:,} bytes, and the manifest says {size:,}; "
                                "correct the manifest: the file may have been replaced")
        came, dropped = _append(answer, part, have, advance)
        if have + came == total or (total < 0 and not dropped):
            return
        tries = 0 if came else tries + 1
    raise ChromaccError(f"{url}: the connection dropped {TRIES} times; run again: what came is kept")


def _append(answer: requests.Response, part: Path, have: int, advance: Callable[[int], object]
            ) -> tuple[int, bool]:
    """Append an answer's body; return the bytes that came, and whether the connection dropped."""
    came = 0
    with open(part, "r+b" if have else "wb") as handle:
        handle.seek(have)
        try:
            for packet in answer.iter_content(CHUNK_BYTES):
                handle.write(packet)
                came += len(packet)
                advance(len(packet))
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
            answer.close()
            return came, True
    return came, False


def download_all(files: Sequence[tuple[str, str, int]], folder: str | Path, workers: int = 4) -> list[Path]:
    """`download` each (url, md5, bytes), `workers` at a time, with one progress bar; return paths in order.

    md5 "" and bytes 0 = not known. Each file has a folder of its own, named by its address, since two may
    share a name. Raises one ChromaccError that lists all that failed; files that are whole stay.
    """
    folder = Path(folder)
    session = http_session()
    with tqdm(total=sum(size for *_, size in files) or None, desc="download", unit="B", unit_scale=True,
              disable=None) as bar, ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(download, url, folder / hashlib.sha256(url.encode()).hexdigest()[:16], md5, size,
                            session, bar.update) for url, md5, size in files]
        errors = [job.exception() for job in jobs]
    failed = [error for error in errors if error is not None]
    unexpected = next((error for error in failed if not isinstance(error, ChromaccError)), None)
    if unexpected is not None:
        raise unexpected
    if failed:
        listing = "\n".join(f"  {i}. {error}" for i, error in enumerate(failed, start=1))
        raise ChromaccError(f"{len(failed)} of {len(files)} file(s) could not be fetched:\n{listing}") from failed[0]
    return [job.result() for job in jobs]
