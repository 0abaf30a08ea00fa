"""Sources: the bytes of a file, local or remote; of a remote one only those that are needed.

A remote file is named by its URL, and read by ranges through the block cache (`cache.RemoteFile`). Whole files are
fetched by `download`, which resumes, verifies and renames.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import pooch
import requests

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.cache import shared_remote
from chromacc_lib.network import (
    TRIES, ConnectionDropped, http_session, packets, request, require_from, require_http, require_ok,
)
from chromacc_lib.problems import FileProblem, Problem
from chromacc_lib.progress import progress

__all__ = [
    "ByteSource", "DownloadsFailed", "LocalFile", "cache_folder", "data_lines", "download", "download_all",
    "file_md5", "is_url", "open_source", "place_of", "require_file", "text_lines",
]


# --- local --------------------------------------------------------------------------------------------------
def require_file(path: Path) -> None:
    """Raise FileProblem unless `path` is a readable file with something in it."""
    try:
        found, got = path.is_file(), "a folder" if path.is_dir() else "something else" if path.exists() else "nothing there"
    except OSError as error:  # such as a name that is too long
        found, got = False, error.strerror
    if not found:
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


def data_lines(path: Path) -> list[tuple[int, str]]:
    """Return `text_lines` without comments (#), blank lines, and `track` and `browser` lines."""
    skip = re.compile(r"\s*(#|track\b|browser\b|$)")
    return [(i, line) for i, line in text_lines(path) if not skip.match(line)]


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


def is_url(entry: str) -> bool:
    """Tell a web address from a path. A scheme other than http(s) counts as an address, and is refused later."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", entry) is not None


def open_source(entry: str | Path) -> ByteSource:
    """Open a file by path or by URL (through the block cache). Raises ChromaccError when it is not there.

    Within a process an address is opened once, and shared: what one thread fetches, the others have.
    """
    return shared_remote(str(entry), cache_folder()) if is_url(str(entry)) else LocalFile(entry)


def cache_folder() -> Path:
    """Return the folder of the block cache: CHROMACC_CACHE, or data/cache in the project."""
    return Path(os.environ.get("CHROMACC_CACHE") or project_path("data/cache"))


class DownloadsFailed(ChromaccError):
    """Raised where some of several files could not be fetched; `errors`: {URL: what went wrong}."""

    def __init__(self, errors: dict[str, ChromaccError], n_files: int) -> None:
        listing = "\n".join(f"  {i}. {error}" for i, error in enumerate(errors.values(), start=1))
        super().__init__(f"{len(errors)} of {n_files} file(s) could not be fetched:\n{listing}")
        self.errors = errors


# --- whole files --------------------------------------------------------------------------------------------
def download(url: str, folder: str | Path, md5: str = "", size: int = 0,
             session: requests.Session | None = None, advance: Callable[[int], object] = int) -> Path:
    """Fetch a whole file into `folder`, under the address's own name, and return its path.

    What is there already is not fetched again where its md5 fits. md5: hex; "" = not known, and then only the
    length is checked. advance: called with the bytes of each packet, and with bytes below 0 where some that lay
    in `folder` are of no use. A download that was cut goes on where it stopped, unless the file has changed
    since; it appears under its name when it is whole. Raises ChromaccError for all else.
    """
    require_http(url)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = _part(url, folder)
    session = session or http_session()
    pooch.get_logger().setLevel("WARNING")
    there = folder / _file_name(url)
    if md5 and there.is_file():
        if file_md5(there) == md5.lower():
            return there
        advance(-there.stat().st_size)
    if not md5 and size and there.is_file() and there.stat().st_size != size:
        advance(-there.stat().st_size)
        there.unlink()  # of no known checksum, and of another length: fetched again

    def fetch(address: str, target: str, _: object) -> None:
        """Resume into the part file beside it, then hand it over: pooch itself would start anew each time."""
        _resume(session, address, part, size, advance)
        os.replace(part, target)
        _version_of(part).unlink(missing_ok=True)

    try:
        path = pooch.retrieve(url, known_hash=f"md5:{md5.lower()}" if md5 else None, fname=_file_name(url),
                              path=folder, downloader=fetch)
    except ValueError as error:  # pooch's word for a hash that does not fit; its temporary file is gone
        raise ChromaccError(f"{url}: {error}; correct the md5 in the manifest, or try again") from error
    return Path(path)


def place_of(url: str, folder: str | Path) -> Path:
    """Return where `download_all` puts the file of an address: in a folder of its own, named by the address."""
    return Path(folder) / _key(url) / _file_name(url)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _part(url: str, folder: Path) -> Path:
    return folder / f".{_key(url)}.part"


def _version_of(part: Path) -> Path:
    """Return the file beside an unfinished download that says which version its bytes are of (see `_version`)."""
    return part.with_suffix(".version")


def _file_name(url: str) -> str:
    """Return a name that cannot leave its folder: the address's last part, made plain."""
    try:
        path = urlsplit(url).path
    except ValueError:  # no address at all, as `require_http` says of it
        path = ""
    return re.sub(r"[^A-Za-z0-9._-]", "_", unquote(path).rpartition("/")[2]).lstrip(".") or _key(url)


def _version(answer: requests.Response) -> str:
    """Return what If-Range takes: a strong ETag, else the date; "" = the server tells neither."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _resume(session: requests.Session, url: str, part: Path, size: int,
            advance: Callable[[int], object]) -> None:
    """Fetch what `part` lacks of a file, appending; a server without ranges, or with another version of the file
    than the one that `part` began with, is read from the start.
    """
    tries, version, furthest = 0, _version_of(part), 0
    while tries < TRIES:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        if have and version.is_file():
            headers["If-Range"] = version.read_text()
        answer = request(session, url, headers, url)
        if answer.status_code == 416 and have:  # nothing is left to fetch, or the part is another file's
            whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
            answer.close()
            if whole == str(have):
                return
            advance(-have)
            part.unlink()
            continue
        require_ok(answer, url)
        if answer.status_code == 206:
            require_from(answer, have, url)
        else:
            advance(-have)
            have = 0
            version.unlink(missing_ok=True)
            if _version(answer):
                version.write_text(_version(answer))
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else -1  # -1 = not told
        if size and total >= 0 and total != size:
            answer.close()
            raise ChromaccError(f"{url}: the server has {total:,} bytes, and the manifest says {size:,}; "
                                "correct the manifest: the file may have been replaced")
        came, dropped = _append(answer, part, have, advance)
        if have + came == total or (total < 0 and not dropped):
            return
        tries = 0 if have + came > furthest else tries + 1  # without ranges, each try begins anew
        furthest = max(furthest, have + came)
    raise ChromaccError(f"{url}: the connection dropped {TRIES} times; run again: what came is kept")


def _append(answer: requests.Response, part: Path, have: int, advance: Callable[[int], object]
            ) -> tuple[int, bool]:
    """Append an answer's body; return the bytes that came, and whether the connection dropped."""
    came = 0
    with open(part, "r+b" if have else "wb") as handle:
        handle.seek(have)
        try:
            for packet in packets(answer):
                handle.write(packet)
                came += len(packet)
                advance(len(packet))
        except ConnectionDropped:
            return came, True
    return came, False


def download_all(files: Sequence[tuple[str, str, int]], folder: str | Path, workers: int = 4,
                 say: Callable[[str], None] = print) -> list[Path]:
    """`download` each (url, md5, bytes), `workers` at a time, showing progress; return paths in order (`place_of`).

    md5 "" and bytes 0 = not known. say: gets a line with the number of bytes before the first is asked for, unless
    all files are there. Raises DownloadsFailed that lists all that failed; files that are whole stay.
    """
    session, places = http_session(), [place_of(url, folder) for url, *_ in files]
    there = sum(_bytes_there(url, place) for (url, *_), place in zip(files, places))
    if not all(place.is_file() for place in places):
        say(_what_comes(files, there))
    total = 0 if any(size == 0 for *_, size in files) else sum(size for *_, size in files)
    with progress(total, "downloads", "B", there) as bar, ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(download, url, place.parent, md5, size, session, bar.update)
                for (url, md5, size), place in zip(files, places)]
        errors = [job.exception() for job in jobs]
    failed = {url: error for (url, *_), error in zip(files, errors) if error is not None}
    unexpected = next((error for error in failed.values() if not isinstance(error, ChromaccError)), None)
    if unexpected is not None:
        raise unexpected
    if failed:
        raise DownloadsFailed(failed, len(files)) from next(iter(failed.values()))
    return [job.result() for job in jobs]


def _bytes_there(url: str, place: Path) -> int:
    """Return the bytes of a file that an earlier download left, whole or in part; whether they fit is seen later."""
    return next((path.stat().st_size for path in (place, _part(url, place.parent)) if path.is_file()), 0)


def _what_comes(files: Sequence[tuple[str, str, int]], there: int) -> str:
    """Return the line that is said before (url, md5, bytes) files are fetched; there: bytes that are on the disk."""
    sizes = [size for *_, size in files if size]
    name = f" ({_file_name(files[0][0])})" if len(files) == 1 else ""
    unknown = f", and {len(files) - len(sizes)} of a size that is not known" if len(sizes) < len(files) else ""
    return (f"downloads: {len(files)} file(s){name}, {sum(sizes) / 1e9:,.2f} GB{unknown}; {there / 1e9:,.2f} GB are "
            "there already")
