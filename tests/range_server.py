"""A small HTTP server on 127.0.0.1 that serves files by ranges, and misbehaves when told to."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urljoin


class Served:
    """What is served, what was asked, and the faults to play: {path: [fault, ...]}, one a request, in order.

    A range of another version than If-Range names is answered by the whole file.
    Faults: ("status", code, headers), ("drop", n) = close after n bytes, ("stall", n, seconds) = wait that long after n
    bytes, then close, ("slow", seconds) = wait before the answer, ("redirect", path or address),
    ("wrong range",) = answer the whole file with 200, ("late", n) = a range that begins n bytes later than asked.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: dict[str, list[tuple]] = {}
        self.headers: dict[str, str] = {}       # of every answer with a file in it, over the usual ones
        self.ranges = True
        self.asked: list[tuple[str, str]] = []  # (path, Range header)
        self.sent = 0                           # bytes of bodies
        self.address = ""

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return self.address + path


def _handler(served: Served) -> Callable:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every answer waits 40 ms for the acknowledgement of its header

        def handle(self) -> None:
            """Answer until the client has gone, which it may at any moment."""
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

        def do_GET(self) -> None:
            """Serve a file, a range of it, or the next fault."""
            served.asked.append((self.path, self.headers.get("Range", "")))
            faults = served.faults.get(self.path, [])
            fault = faults.pop(0) if faults else ("none",)
            if fault[0] == "status":
                self._answer(fault[1], b"{}", fault[2] if len(fault) > 2 else {})
            elif fault[0] == "redirect":
                self._answer(302, b"", {"Location": urljoin(served.address, fault[1])})
            elif self.path not in served.files:
                self._answer(404, b"{}", {})
            else:
                if fault[0] == "slow":
                    time.sleep(fault[1])
                self._file(fault)

        def _file(self, fault: tuple) -> None:
            data = served.files[self.path]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            headers = {"ETag": served.etags.get(self.path, '"1"')} | served.headers
            known = self.headers.get("If-Range", "")
            changed = known and known not in (headers["ETag"], headers.get("Last-Modified"))
            if not served.ranges or fault[0] == "wrong range" or asked is None or changed:
                return self._answer(200, data, headers, fault)
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if first >= len(data):
                return self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            first += fault[1] if fault[0] == "late" else 0
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._answer(206, data[first:last + 1], headers, fault)

        def _answer(self, code: int, body: bytes, headers: dict[str, str], fault: tuple = ("none",)) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault[0] in ("drop", "stall"):
                body = body[:fault[1]]
                self.close_connection = True
            served.sent += len(body)  # before the last byte goes, as the client may look at it then
            self.wfile.write(body)
            if fault[0] == "stall":
                time.sleep(fault[2])

    return Handler


@contextmanager
def serve() -> Iterator[Served]:
    """Run the server while the block lasts."""
    served = Served()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(served)) as server:
        served.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
