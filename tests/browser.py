"""A headless browser for tests of pages: the system's chromium, offline and watched.

A test module takes the fixtures with ``pytest_plugins = ["tests.browser"]``.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Playwright, Route
from playwright.sync_api import sync_playwright as start_playwright

from tests.system import install_or_skip

# Software WebGL, the same on every machine. Nothing that calls home.
FLAGS = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-component-update",
    "--disable-sync",
]
WITHOUT_WEBGL = ["--disable-gpu", "--disable-software-rasterizer"]
# Small: every pixel is drawn by the processor.
WINDOW = {"width": 880, "height": 560}


class Browsing:
    """Browser windows, one for each profile, that stay open from test to test.

    Attributes
    ----------
    problems
        What must not happen in a page: errors of the console, uncaught exceptions, requests of
        anything but local files.
    """

    def __init__(self, playwright: Playwright, executable: str, folder: Path) -> None:
        self.problems: list[str] = []
        self._playwright = playwright
        self._executable = executable
        self._folder = folder
        self._windows: dict[str, BrowserContext] = {}
        self._used: set[str] = set()

    def open(self, path: Path, *, profile: str = "reader", webgl: bool = True) -> Page:
        """Open a local page as the only one of a profile's window, and return it when loaded.

        A profile keeps what pages stored (``localStorage``), also over `close`.
        """
        if profile not in self._windows:
            self._windows[profile] = self._launch(profile, webgl)
        self._used.add(profile)
        page = self._only_page(profile)
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.goto(path.as_uri())
        return page

    def close(self, profile: str = "reader") -> None:
        """Close the window of a profile."""
        self._windows.pop(profile).close()

    def forget(self, profile: str) -> None:
        """Empty the window of a profile and what its pages stored, as if it were a new one."""
        self._windows[profile].pages[-1].evaluate("localStorage.clear()")
        self._only_page(profile)

    def close_all(self) -> None:
        """Close every window."""
        for profile in list(self._windows):
            self.close(profile)

    @contextmanager
    def one_test(self) -> Iterator[None]:
        """Empty the windows that a test used, with what it stored; check what went wrong there."""
        self.problems.clear()
        self._used.clear()
        yield
        for profile in self._used & self._windows.keys():
            self.forget(profile)
        assert self.problems == []

    def download(self, page: Page, act: Callable[[], None], folder: Path) -> Path:
        """Return the file that an act, such as a click, makes a page download."""
        with page.expect_download() as caught:
            act()
        path = folder / caught.value.suggested_filename
        caught.value.save_as(path)
        return path

    @staticmethod
    def until(page: Page, condition: str, seconds: float = 30.0) -> None:
        """Wait until a JavaScript expression is true.

        Pages forbid ``eval``, which the library's own waiting uses.
        """
        end = time.monotonic() + seconds
        while not page.evaluate(condition):
            assert time.monotonic() < end, f"not true within {seconds} s: {condition}"
            page.wait_for_timeout(10)

    def _launch(self, profile: str, webgl: bool) -> BrowserContext:
        flags = FLAGS if webgl else WITHOUT_WEBGL
        # The sandbox needs a user that is not root.
        flags = [*flags, "--no-sandbox"] if os.geteuid() == 0 else flags
        window = self._playwright.chromium.launch_persistent_context(
            self._folder / profile,
            executable_path=self._executable,
            args=flags,
            headless=True,
            offline=True,
            accept_downloads=True,
            viewport=WINDOW,
            locale="en-GB",
            # Far from UTC, so that a local time cannot pass for it.
            timezone_id="America/New_York",
        )
        window.set_default_timeout(30_000)
        window.set_default_navigation_timeout(60_000)
        window.route("**/*", self._route)
        return window

    def _only_page(self, profile: str) -> Page:
        window = self._windows[profile]
        others = list(window.pages)
        page = window.new_page()
        for other in others:
            other.close()
        return page

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _route(self, route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            self.problems.append(f"request: {route.request.url}")
            route.abort()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return chromium's path; install it where this user can, else skip the test."""
    install_or_skip("chromium")
    found = shutil.which("chromium")
    assert found, "the installation told of no failure, but there is no chromium"
    return found


@pytest.fixture(scope="module")
def windows(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browsing]:
    """Return the module's windows; closed at its end, since playwright runs an event loop."""
    with start_playwright() as playwright:
        windows = Browsing(playwright, chromium, tmp_path_factory.mktemp("profiles"))
        yield windows
        windows.close_all()


@pytest.fixture
def browsing(windows: Browsing) -> Iterator[Browsing]:
    """Return the windows, empty; fail the test on what goes wrong in them."""
    with windows.one_test():
        yield windows
