"""Network: HTTP requests that try again where it is worth it, and say what is wrong where it is not."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from chromacc_lib import ChromaccError

__all__ = [
    "CHUNK_BYTES", "CONNECTIONS", "TRIES", "ConnectionDropped", "answer_body", "http_session", "packets", "request",
    "require_from", "require_http", "require_ok",
]

SCHEMES = ("http", "https")
TIMEOUT_S = (10, 60)    # to connect; between two packets
TRIES = 5               # of one request, with waits of 0.5, 1, 2, ... s, or what Retry-After says
BACKOFF_S = 0.5
LONGEST_WAIT_S = 60     # whatever Retry-After asks for
RETRIED = (429, 500, 502, 503, 504)
CONNECTIONS = 8         # ranges of one file fetched side by side
CHUNK_BYTES = 64 << 10  # a connection that drops loses no more than this


def require_http(url: str) -> None:
    """Raise ChromaccError unless the address is http or https with a host."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ChromaccError(f"{url}: got an address that is none ({error}); needed http or https with a host, or a "
                            "path. Correct the manifest") from error
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise ChromaccError(f"{url}: got an address of scheme {parts.scheme!r}; needed http or https with a "
                            "host, or a path. Correct the manifest")


def http_session() -> requests.Session:
    """Return a session that retries what is worth retrying, and honours Retry-After."""
    retry = Retry(total=TRIES - 1, backoff_factor=BACKOFF_S, status_forcelist=RETRIED, allowed_methods=("GET",),
                  raise_on_status=False, retry_after_max=LONGEST_WAIT_S)
    session = requests.Session()
    for scheme in SCHEMES:
        session.mount(f"{scheme}://", HTTPAdapter(max_retries=retry, pool_maxsize=CONNECTIONS))
    return session


def request(session: requests.Session, address: str, headers: dict[str, str], name: str
            ) -> requests.Response:
    """Return the answer to a GET, its body not read yet; `name` is what an error calls the file."""
    try:
        return session.get(address, headers=headers, timeout=TIMEOUT_S, stream=True)
    except requests.RequestException as error:
        raise ChromaccError(f"{name}: cannot be reached ({error}); check the address and the network, and "
                            "try again: what came so far is kept") from error


class ConnectionDropped(Exception):
    """Raised where an answer's body ends before its end, or stalls; what came before has been handed on."""


def packets(answer: requests.Response) -> Iterator[bytes]:
    """Yield an answer's body as it came, in parts of `CHUNK_BYTES`: what a server says it has encoded is not decoded,
    since ranges, lengths and checksums are those of the file. Raises ConnectionDropped.
    """
    try:
        yield from answer.raw.stream(CHUNK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        answer.close()
        raise ConnectionDropped(str(error)) from error


def answer_body(answer: requests.Response, most: int) -> bytes:
    """Return what came of an answer's body; a connection that drops leaves it short, and the caller asks again."""
    data = bytearray()
    try:
        for part in packets(answer):
            data += part
            if len(data) > most:
                answer.close()
                break
    except ConnectionDropped:
        pass
    return bytes(data[:most])


def require_from(answer: requests.Response, offset: int, name: str) -> None:
    """Raise ChromaccError unless a partial answer begins at the byte that was asked for."""
    found = answer.headers.get("Content-Range", "")
    if not found.startswith(f"bytes {offset}-"):
        answer.close()
        raise ChromaccError(f"{name}: asked for bytes from {offset}, the server answered Content-Range {found!r}; "
                            "needed what was asked for. A proxy may be at fault: try again, or fetch the file "
                            "otherwise")


def require_ok(answer: requests.Response, name: str) -> None:
    """Raise ChromaccError, with what to do about it, unless the answer is 200 or 206."""
    if answer.status_code in (200, 206):
        return
    answer.close()
    remedies = {404: "the accession may be archived or the address mistyped", 403: "access is not allowed",
                416: "the file is shorter than its index says"}
    asked = f"it was asked {TRIES} times; try again later" if answer.status_code in RETRIED else "correct the address"
    remedy = remedies.get(answer.status_code, asked)
    raise ChromaccError(f"{name}: the server answered {answer.status_code} {answer.reason}; {remedy}")
