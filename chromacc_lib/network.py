"""Network: HTTP requests that try again where it is worth it, and say what is wrong where it is not."""

from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from chromacc_lib import ChromaccError

__all__ = [
    "CHUNK_BYTES", "CONNECTIONS", "TRIES", "answer_body", "http_session", "request", "require_from", "require_http",
    "require_ok",
]

SCHEMES = ("http", "https")
TIMEOUT_S = (10, 60)    # to connect; between two packets
TRIES = 5               # of one request, with waits of 0.5, 1, 2, ... s, or what Retry-After says
BACKOFF_S = 0.5
RETRIED = (429, 500, 502, 503, 504)
CONNECTIONS = 8         # ranges of one file fetched side by side
CHUNK_BYTES = 64 << 10  # a connection that drops loses no more than this


def require_http(url: str) -> None:
    """Raise ChromaccError unless the address is http or https with a host."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise ChromaccError(f"{url}: got an address of scheme {parts.scheme!r}; needed http or https with a "
                            "host, or a path. Correct the manifest")


def http_session() -> requests.Session:
    """Return a session that retries what is worth retrying, and honours Retry-After."""
    retry = Retry(total=TRIES - 1, backoff_factor=BACKOFF_S, status_forcelist=RETRIED, allowed_methods=("GET",),
                  raise_on_status=False)
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


def answer_body(answer: requests.Response, most: int) -> bytes:
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
