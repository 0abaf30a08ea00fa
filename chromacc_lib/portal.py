"""The ENCODE portal's REST API: a few tries a request, every page of a search, no answer taken on trust.

API: https://www.encodeproject.org/help/rest-api/
"""

import email.utils
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urljoin, urlsplit

import pandas as pd
import requests

from chromacc_lib import ChromaccError

__all__ = [
    "FILE_ACCESSION", "PORTAL", "Portal", "accessions_of", "id_of", "open_portal", "review_accessions", "text_field",
]

PORTAL = "https://www.encodeproject.org"
FILE_ACCESSION = r"ENCFF[0-9]{3}[A-Z]{3}"
PASSING = (429, 500, 502, 503, 504)  # faults that may pass: tried again
LONGEST_PAUSE = 60.0  # seconds, whatever Retry-After asks for


@dataclass(frozen=True)
class Portal:
    """The REST API at `url`. Faults that may pass are tried `attempts` times in all."""

    url: str
    attempts: int
    pause: Callable[[float], None]
    session: requests.Session

    def get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> tuple[int, dict]:
        """Return (200 or 404, the JSON object). Raises ChromaccError for every other answer, or none."""
        url, trouble = urljoin(self.url, path), ""
        for attempt in range(self.attempts):
            try:
                answer = self.session.get(url, params=[*params, ("format", "json")], timeout=(10, 120))
            except requests.RequestException as error:
                trouble, wait = f"no answer ({type(error).__name__})", 2.0**attempt
            else:
                if answer.status_code not in PASSING:
                    return self._read(answer)
                trouble, wait = f"HTTP {answer.status_code}", _retry_after(answer, 2.0**attempt)
            if attempt + 1 < self.attempts:
                self.pause(min(wait, LONGEST_PAUSE))
        raise ChromaccError(f"{url}: got {trouble}, {self.attempts} time(s) in a row; needed an answer of the "
                            "portal. Check the connection, or try again later")

    def _read(self, answer: requests.Response) -> tuple[int, dict]:
        """Return status and content of an answer that is final."""
        if urlsplit(answer.url).netloc != urlsplit(self.url).netloc:
            raise ChromaccError(f"{self.url} sent us to {answer.url}; needed an answer of its own. "
                                "Check the portal's address")
        if answer.status_code not in (200, 404):
            raise ChromaccError(f"{answer.url}: got HTTP {answer.status_code}; needed 200. "
                                "Check the portal's address and the query")
        try:
            content = answer.json()
        except requests.JSONDecodeError as error:
            raise ChromaccError(f"{answer.url}: the answer is not JSON; it starts with {answer.text[:60]!r}. "
                                "Check the portal's address (a proxy or a login page may answer)") from error
        if not isinstance(content, dict):
            raise ChromaccError(f"{answer.url}: got a JSON {type(content).__name__}; needed an object. "
                                "Check the portal's address")
        return answer.status_code, content

    def search(self, params: Sequence[tuple[str, str]], page_size: int) -> list[dict]:
        """Return all hits, page by page. Raises ChromaccError when fewer came than the portal counts."""
        hits: dict[str, dict] = {}
        while True:
            page_params = [*params, ("limit", str(page_size)), ("from", str(len(hits)))]
            status, content = self.get("/search/", page_params)
            page, total = content.get("@graph"), content.get("total")
            if status == 404 and page == []:  # the portal's way of saying "no results"
                total = 0
            if not isinstance(page, list) or not isinstance(total, int):
                raise ChromaccError(f"{self.url}/search/: got no @graph or no total (HTTP {status}); needed "
                                    "the answer of a search. Check the portal's address")
            before = len(hits)
            hits |= {text_field(hit, "accession"): hit for hit in page}
            if len(hits) == total:
                return list(hits.values())
            if len(hits) == before or len(hits) > total:
                raise ChromaccError(
                    f"{self.url}/search/: the portal counts {total} experiment(s), but {len(hits)} came; "
                    f"needed all of them, or a better one may be overlooked. Try again ({dict(params)})")


def open_portal(url: str, attempts: int, pause: Callable[[float], None]) -> Portal:
    """Return a portal, once its address is known to be one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        raise ChromaccError(f"the portal's address is {url!r}; needed http(s)://host, such as {PORTAL}")
    session = requests.Session()
    session.headers.update({"Accept": "application/json", "User-Agent": "chromacc"})
    return Portal(url.rstrip("/"), attempts, pause, session)


def _retry_after(answer: requests.Response, otherwise: float) -> float:
    """Return the seconds that Retry-After asks for, a number or a date; `otherwise` where it is absent."""
    header = answer.headers.get("Retry-After", "").strip()
    if header.isdigit():
        return float(header)
    try:
        until = email.utils.parsedate_to_datetime(header)
    except ValueError:  # absent or unreadable: our own pace
        return otherwise
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


def text_field(record: Mapping[str, Any], name: str) -> str:
    """Return a text field that every record has."""
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise ChromaccError(f"the portal's record {record.get('@id', '(no @id)')} has no {name}; needed a "
                            "text. Its format may have changed: please report it")
    return value


def id_of(item: str | Mapping[str, Any]) -> str:
    """Return the @id of something that is embedded or only named."""
    return item if isinstance(item, str) else text_field(item, "@id")


def accessions_of(items: Iterable[str | Mapping[str, Any]]) -> str:
    """Return the accessions of things given by their @id."""
    return ", ".join(id_of(item).strip("/").rpartition("/")[2] for item in items)


def review_accessions(accessions: Iterable[str], portal: str = PORTAL, *, attempts: int = 4,
                      pause: Callable[[float], None] = time.sleep) -> pd.DataFrame:
    """Ask the portal what became of files; return accession, current (bool), successor ("" = none), reason."""
    client = open_portal(portal, attempts, pause)
    rows = []
    for accession in accessions:
        if not re.fullmatch(FILE_ACCESSION, accession):
            raise ChromaccError(f"accession {accession!r}: needed a file of ENCODE, such as ENCFF849TDM")
        status, record = client.get(f"/files/{accession}/")
        if status == 404:
            rows.append((accession, False, "", "the portal does not have it"))
            continue
        state, successor = text_field(record, "status"), accessions_of(record.get("superseded_by") or ())
        if text_field(record, "accession") != accession:  # merged: the portal answers with what took its place
            state, successor = "replaced", record["accession"]
        reason = state + (f", its successor is {successor}" if successor else "")
        rows.append((accession, state == "released" and not successor, successor, reason))
    return pd.DataFrame(rows, columns=["accession", "current", "successor", "reason"])
