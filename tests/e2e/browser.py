"""A real Chromium: what a page shows, says, asks for and prints. Playwright drives the machine's own browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 60_000  # a machine that runs other tests is slow to start a browser


def find_chromium() -> str:
    """The browser's path. Where there is none the test is skipped with what to install, and fails under CI."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    told = "no Chromium on this machine, so no page was looked at: apt-get install chromium fonts-noto-cjk"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)


class Tab:
    """One page at one size. *said*: errors and warnings of its console. *asked*: every address it asked for."""

    def __init__(self, chromium: Chromium, page: Path, *, width: int, dark: bool) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self._page = chromium.new_page(
            viewport={"width": width, "height": 900},
            is_mobile=width < 600,
            color_scheme="dark" if dark else "light",
            locale="zh-CN",
        )
        self._page.set_default_timeout(PATIENCE_MS)
        self._page.on(
            "console", lambda told: self.said.append(told.text) if told.type in ("error", "warning") else None
        )
        self._page.on("pageerror", lambda error: self.said.append(str(error)))
        self._page.on("request", lambda request: self.asked.append(request.url))
        self._page.goto(page.as_uri(), timeout=PATIENCE_MS)

    def run(self, script: str) -> Any:
        """What *script*, an expression, is worth in the page; a promise is waited for."""
        return self._page.evaluate(script)

    def press(self, selector: str, text: str) -> None:
        """Type *text* into the field that *selector* finds, as a person does."""
        self._page.locator(selector).press_sequentially(text)

    def hover(self, selector: str) -> None:
        """Move the pointer over what *selector* finds first."""
        self._page.locator(selector).first.hover()

    def text(self, selector: str = "body") -> str:
        """The text a reader sees there."""
        return self._page.locator(selector).first.inner_text()

    def picture(self) -> bytes:
        """A PNG of what the window shows."""
        return self._page.screenshot()

    def printed(self) -> bytes:
        """The page as a PDF, on the paper its own `@page` asks for."""
        return self._page.pdf(prefer_css_page_size=True, print_background=True)

    def as_printed(self, width: int) -> None:
        """Lay the page out as on paper *width* CSS pixels wide (96 an inch)."""
        self._page.emulate_media(media="print")
        self._page.set_viewport_size({"width": width, "height": 1000})


class Browser:
    """One headless browser for many pages."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium

    def open(self, page: Path, *, width: int, dark: bool = False) -> Tab:
        """Load *page* in a window of *width* CSS pixels, a phone's below 600, with nothing of other pages."""
        return Tab(self._chromium, page, width=width, dark=dark)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own; it is gone when the block ends."""
    path = find_chromium()
    with sync_playwright() as playwright:
        # a container has neither user namespaces for the sandbox nor a large /dev/shm
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=path, args=arguments, timeout=PATIENCE_MS)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
