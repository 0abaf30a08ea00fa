"""A headless Chromium for tests of pages: one start serves many; the network is off, and what fails is heard."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the pages are not looked at in a browser")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--host-resolver-rules=MAP * ~NOTFOUND"]
PATIENCE_MS = 60_000  # on a busy machine
DESKTOP, PHONE = (1200, 900), (390, 844)  # CSS pixels
LOOK = """() => {
  const edge = document.documentElement.clientWidth;
  const within = e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return true;
    return false;
  };
  const beyond = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > edge + 1 && !within(e));
  return {
    text: document.body.innerText, images: [...document.images].map(i => ({alt: i.alt, width: i.naturalWidth})),
    wide: beyond.map(e => e.tagName + '.' + e.className), scroll: document.documentElement.scrollWidth,
  };
}"""  # a box that scrolls within itself makes no page wider


@contextmanager
def open_browser(*flags: str) -> Iterator[Browser]:
    """Start the machine's Chromium, and end it. flags: further ones; the last of a kind holds."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags], timeout=PATIENCE_MS)
        yield browser
        browser.close()


def listened(page: Page, levels: tuple[str, ...] = ("error", "warning")) -> tuple[list[str], list[str]]:
    """Return two lists that fill while the page lives: what failed or was complained of, and every address asked for.

    levels: of the console's complaints.
    """
    faults, asked = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: faults.append(f"request failed: {request.url[:200]} {request.failure}"))
    page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
    page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type in levels else None)
    return faults, asked


def assert_page_opens(browser: Browser, path: Path) -> dict:
    """Open a page from the file system on a desktop and on a phone; return its text and images, as on the desktop.

    Nothing may fail or complain, nothing but the page itself be asked for, every image has to be there with its alt
    text, and nothing be wider than the screen.
    """
    seen = {}
    for size in (DESKTOP, PHONE):
        context = browser.new_context(viewport=dict(zip(("width", "height"), size)), offline=True, is_mobile=size is PHONE)
        page = context.new_page()
        faults, asked = listened(page)
        page.goto(path.as_uri(), timeout=PATIENCE_MS)
        seen[size] = at = page.evaluate(LOOK)
        context.close()
        assert not faults, f"{path.name}: {faults}"
        outside = [url for url in asked if url != path.as_uri() and not url.startswith("data:")]
        assert not outside, f"{path.name} asked for {outside}"
        bad = [image for image in at["images"] if not (image["width"] and image["alt"])]
        assert not bad, f"{path.name}: images without content or alt text: {bad}"
        assert not at["wide"] and at["scroll"] <= size[0], f"{path.name} on {size}: wider than that: {at['wide'][:5]}"
    return seen[DESKTOP]
