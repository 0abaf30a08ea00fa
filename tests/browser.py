"""A headless Chromium for tests, driven over its DevTools protocol: one start serves many pages.

The network is off: host names are not resolved, and each page is told that it is offline. What a page asks for, what
fails, and what it complains of is kept.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the pages are not looked at in a browser")

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]  # fmt: skip
PATIENCE_S = 60  # on a busy machine
PHONE = (390, 844)
DESKTOP = (1200, 900)

LOOK = """(() => {
  const images = [...document.images].map(i => ({alt: i.alt, width: i.naturalWidth}));
  const edge = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll('body *')].filter(e => {
    if (e.getBoundingClientRect().right <= edge + 1) return false;
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
    return true;
  }).map(e => e.tagName + '.' + e.className);
  return {title: document.title, text: document.body.innerText, images, wide, scroll: document.documentElement.scrollWidth, edge};
})()"""  # a box that scrolls within itself makes no page wider


class Page:
    """An open page: what it asked for, what failed, what it complained of, and what it holds."""

    def __init__(self, browser: "Browser", session: str, target: str) -> None:
        self._browser, self.session, self.target = browser, session, target
        self.requests, self.faults, self.loaded = [], [], False

    def hear(self, method: str, event: dict) -> None:
        """Take in one event of this page."""
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.loadingFailed":
            self.faults.append(f"request failed: {event['errorText']} {event.get('type')}")
        elif method == "Runtime.exceptionThrown":
            self.faults.append(f"exception: {event['exceptionDetails']['text']}")
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.faults.append(f"console: {event['args']}")
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.faults.append(f"log: {event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Page.loadEventFired":
            self.loaded = True

    def send(self, method: str, **parameters: object) -> dict:
        """Give a command to this page, and return its answer."""
        return self._browser.send(method, self.session, **parameters)

    def go(self, url: str, size: tuple[int, int] = DESKTOP, mobile: bool = False) -> "Page":
        """Load an address at a size in CSS pixels, and wait until it is there."""
        self.send("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=mobile)
        self.loaded = False
        failed = self.send("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"
        self._browser.wait(lambda: self.loaded, f"{url} to load")
        return self

    def evaluate(self, script: str) -> object:
        """Return the value of a JavaScript expression in the page (a promise is awaited)."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def look(self) -> dict:
        """Return title, text, images (alt text, natural width), elements beyond the right edge, and both widths."""
        return self.evaluate(LOOK)

    def screenshot(self, path: Path) -> Path:
        """Write the whole page as PNG."""
        image = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(image))
        return path

    def pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        """Close it."""
        self._browser.send("Target.closeTarget", targetId=self.target)


class Browser:
    """A Chromium with its own empty profile, closed and removed at the end."""

    def __init__(self, offline: bool = True) -> None:
        self._offline, self._pages, self._answers, self._number = offline, {}, {}, 0
        self._profile = Path(tempfile.mkdtemp(prefix="chromium."))
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        address = self._profile / "DevToolsActivePort"
        try:
            until = time.monotonic() + PATIENCE_S
            while not (address.is_file() and address.read_text().count("\n") == 1):
                assert self._process.poll() is None, f"{CHROMIUM} ended with status {self._process.returncode}"
                assert time.monotonic() < until, f"{CHROMIUM} opened no debugging port in {PATIENCE_S} s"
                time.sleep(0.02)
            port, path = address.read_text().split("\n")
            self._socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", suppress_origin=True, timeout=PATIENCE_S)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        """End the browser, and remove its profile."""
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        shutil.rmtree(self._profile, ignore_errors=True)  # its children may still be writing there

    def send(self, method: str, session: str | None = None, **parameters: object) -> dict:
        """Give a command, and return its answer; events that come meanwhile go to their pages."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while number not in self._answers:
            self._hear()
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Hear events until `done()` is true."""
        until = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < until, f"waited {PATIENCE_S} s for {what}"
            self._hear()

    def _hear(self) -> None:
        message = json.loads(self._socket.recv())
        if "id" in message:
            self._answers[message["id"]] = message
        elif message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].hear(message["method"], message["params"])

    def new(self) -> Page:
        """Return an empty page."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        if self._offline:
            page.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        return page


def assert_page_opens(browser: Browser, path: Path) -> dict:
    """Open a page from the file system on a desktop and on a phone, and return what is seen on the desktop.

    Nothing may fail or complain, nothing but the page itself be asked for, every image has to be there with its alt
    text, and nothing be wider than the screen.
    """
    page = browser.new()
    seen = page.go(path.as_uri()).look()
    phone = page.go(path.as_uri(), PHONE, mobile=True).look()
    page.close()
    assert not page.faults, f"{path.name}: {page.faults}"
    outside = [url for url in page.requests if url != path.as_uri() and not url.startswith("data:")]
    assert not outside, f"{path.name} asked for {outside}"
    bad = [image for image in seen["images"] if not (image["width"] and image["alt"])]
    assert not bad, f"{path.name}: images without content or alt text: {bad}"
    for size, at in ((DESKTOP, seen), (PHONE, phone)):
        assert not at["wide"] and at["scroll"] <= size[0], f"{path.name} on {size}: wider than that: {at['wide'][:5]}"
    return seen
