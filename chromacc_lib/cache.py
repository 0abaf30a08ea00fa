"""The block cache: of a remote file only those bytes that are needed, fetched once, and kept on disk.

A file is named by its URL, and read by HTTP range requests. The cache holds a sparse copy, in which bytes stand
where they stand in the remote file, and a journal of the ranges that are there; a rerun asks the network for
nothing. Threads share one `RemoteFile` an address, and processes that share the cache take turns at each file by
a lock, so that nothing is fetched for each of them. Bytes are brought to the disk before the journal names them:
after a power cut, as after a kill, the journal may lack what is there, and never has what is not.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests

from chromacc_lib import ChromaccError
from chromacc_lib.network import (
    CONNECTIONS,
    TRIES,
    answer_body,
    http_session,
    request,
    require_from,
    require_http,
    require_ok,
)

__all__ = ["RemoteFile", "fetched_here", "file_lock", "shared_remote", "split_budget", "sync"]

HEAD_BYTES = 16 << 10   # the first request: a bigWig's header and most of its chromosome list
WASTE = 0.2             # share of unwanted bytes that may be read along, to join neighbouring ranges
LONGEST_RANGE = 8 << 20

_THREAD = threading.local()  # .fetched: bytes that the thread had fetched from the network


def fetched_here() -> int:
    """Return the bytes that came over the network into any block cache, so far, because this thread asked for them."""
    return getattr(_THREAD, "fetched", 0)


# --- one remote file ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Identity:
    """What tells one version of a remote file from another."""

    url: str
    size: int
    etag: str
    modified: str


class RemoteFile:
    """A remote file as a source of bytes, of which only what is asked for is fetched, once.

    name: its URL; size: bytes; fetched: bytes that came over the network since it was opened. cache: folder for the
    sparse copies of all files. It may be used by several threads, and its cache by several processes: whoever fetches
    holds the file's lock, and first takes up what others fetched before. Raises ChromaccError for an address that is no http(s), a missing file, a
    server without range support, or a cache that cannot be locked.
    """

    gap = 0  # what lies between wanted ranges may not have been fetched

    def __init__(self, url: str, cache: str | Path, session: requests.Session | None = None) -> None:
        require_http(url)
        self.name, self.fetched = url, 0
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
        with self._fetching, file_lock(self._folder.with_suffix(".lock"), "set CHROMACC_CACHE to a folder"):
            before = self.fetched
            try:
                self._take_up()
                yield
            finally:
                _THREAD.fetched = fetched_here() + self.fetched - before

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
        sync(new)
        sync(self._folder)
        os.replace(new, self._journal)
        self._take_up()
        self._keep(0, data)

    def _keep(self, offset: int, data: bytes) -> None:
        """Bring bytes to the disk, then add them to the journal: what stops it between leaves bytes nobody trusts."""
        line = json.dumps([offset, offset + len(data)]) + "\n"
        with open(self._folder / "data", "r+b") as copy:
            copy.seek(offset)
            copy.write(data)
        sync(self._folder / "data")
        with self._lock:
            with open(self._journal, "a") as journal:
                journal.write(line)
            self._taken_up += len(line)
            self._ranges = _with_range(self._ranges, offset, offset + len(data))
            self.fetched += len(data)

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
        answer = request(self._session, self._address, headers, self.name)
        if answer.status_code in (401, 403) and self._address != self.name:  # a signed address has expired
            answer.close()
            self._address = self.name
            answer = request(self._session, self._address, headers, self.name)
        if answer.status_code == 200:
            answer.close()
            raise ChromaccError(f"{self.name}: the server does not serve ranges (it answered 200, needed 206); "
                                "fetch the file whole (remote_tracks=download)")
        require_ok(answer, self.name)
        require_from(answer, offset, self.name)
        self._require_same_version(answer)
        self._address = answer.url
        return answer_body(answer, size), answer

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


def shared_remote(url: str, cache: Path) -> RemoteFile:
    """Return this process's one RemoteFile of an address, opened where it is not, or its copy was deleted."""
    key = (url, str(cache))
    with _REGISTRY:
        opening = _OPENING[key]
    with opening:  # of one address at a time: another one may be slow to answer
        remote = _OPENED.get(key)
        if remote is None or not remote.is_current():
            remote = _OPENED[key] = RemoteFile(url, cache)
    return remote


# --- the disk -----------------------------------------------------------------------------------------------
@contextmanager
def file_lock(path: Path, remedy: str, busy: str = "") -> Iterator[None]:
    """Hold a lock that is seen by every thread and process that shares the folder; a killed one lets go of it.

    remedy: how to choose another folder. busy: message of the ChromaccError where another holds the lock; "" = wait.
    Raises ChromaccError as well where there can be no lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise ChromaccError(busy) from error
        except OSError as error:
            raise ChromaccError(f"{path}: cannot be locked ({error}); needed a file system with locks: {remedy} on "
                                "one") from error
        yield


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- ranges -------------------------------------------------------------------------------------------------
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
    if not len(ranges):
        return []
    begins, ends = _joined(np.array(ranges, dtype=np.int64)).T
    gaps = begins[1:] - ends[:-1]
    order = np.argsort(gaps, kind="stable")
    affordable = np.cumsum(gaps[order]) <= waste * int((ends - begins).sum())
    bridged = np.zeros(len(gaps), dtype=bool)
    bridged[order[affordable]] = True
    cut = np.append(np.flatnonzero(~bridged), len(begins) - 1)
    starts = begins[np.append(0, cut[:-1] + 1)]
    return [(at, min(longest, last - at)) for first, last in zip(starts.tolist(), ends[cut].tolist())
            for at in range(first, last, longest)]
