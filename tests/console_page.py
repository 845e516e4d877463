"""The console served for a test, and a real Chromium that looks at it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI

from console.app import create_app
from console.database import Database
from console.mirror import Mirror
from console.settings import ConsoleSettings
from console.users import Role
from tests.broker import free_port, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["PASSWORD", "chromium", "console_app", "log_in", "picture", "serve", "until"]

PASSWORD = "a-long-password"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def console_app(
    settings: ConsoleSettings, database: Database, mirror: Mirror | None = None, t: float = 1000.0
) -> FastAPI:
    """The application with an administrator, an operator and a viewer of one grid."""
    app = create_app(
        settings, database, mirror, hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    )
    users = app.state.console.users
    users.add("admin", Role.ADMIN, "", PASSWORD, t)
    users.add("operator", Role.OPERATOR, "", PASSWORD, t)
    users.add("li", Role.VIEWER, "jinjiang/12", PASSWORD, t)
    return app


@contextlib.contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """The application behind a real server; gives its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30, "the console")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.console.hub.close()
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped loudly where there is none."""
    if not CHROMIUM.exists():
        pytest.skip("NOT TESTED in a browser: there is no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def log_in(
    browser: Browser, address: str, user: str = "admin", *, size: tuple[int, int] = (1440, 900), language: str = "zh-CN",
    touch: bool = False,
) -> Page:  # fmt: skip
    """A page of a logged-in user; errors on it fail the test, those of the content policy too."""
    page = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        locale=language,
        timezone_id="Asia/Shanghai",
        has_touch=touch,
    ).new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{address}/login")
    page.fill("input[name=name]", user)
    page.fill("input[name=password]", PASSWORD)
    page.click("form.login-form button, form button.primary")
    page.wait_for_url(f"{address}/**")
    return page


def picture(page: Page, name: str, *, whole: bool = False) -> None:
    """A screenshot for the documentation, where ``GRIDWATCH_SCREENSHOTS`` names a folder."""
    folder = os.environ.get("GRIDWATCH_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if whole:  # what sticks to the window's top would lie across the middle
            page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=whole)


def until(page: Page, script: str, timeout_s: float = 20.0) -> None:
    """Wait until an expression holds on the page; Playwright's own way needs an eval, which the page forbids."""
    wait_for(lambda: bool(page.evaluate(script)), timeout_s, script)
