"""When a ticket's row is seen in a real Chromium: in the document, no longer faded, and its frame painted.

A row slides in from transparent, so being in the document is not being seen. A row counts from the frame after the
first one in which it is at least half opaque: by then that frame has been handed to the screen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

__all__ = ["watched_feed"]

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
WIDTH_PX, HEIGHT_PX = 1440, 900

# Rows are told apart from their later versions by their id: the first sight counts.
WATCH = """() => {
  const seen = {}, waiting = new Map();
  const frame = () => {
    for (const [id, row] of waiting) {
      if (Number(getComputedStyle(row).opacity) < 0.5) continue;
      waiting.delete(id);
      requestAnimationFrame(() => { seen[id] = Date.now() / 1000; });
    }
    if (waiting.size) requestAnimationFrame(frame);
  };
  const note = (row) => {
    if (row.dataset.id in seen) return;
    if (!waiting.size) requestAnimationFrame(frame);
    waiting.set(row.dataset.id, row);
  };
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) {
      if (node.nodeType !== 1) continue;
      if (node.matches(".row")) note(node);
      node.querySelectorAll(".row").forEach(note);
    }
  }).observe(document.body, { childList: true, subtree: true });
  window.seenRows = seen;
}"""


@contextlib.contextmanager
def watched_feed(address: str, cookie: str) -> Iterator[Callable[[], dict[str, float]]]:
    """The live feed in a Chromium of its own.

    Args:
        address: Of the console, such as ``http://127.0.0.1:8080``.
        cookie: Of a session, as ``name=value``.

    Yields:
        What asks the page when it first showed each ticket: seconds since the epoch by id.
    """
    if not Path(CHROMIUM).exists():
        raise SystemExit(f"{CHROMIUM} is not there: apt-get install chromium")
    name, _, value = cookie.partition("=")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            context = browser.new_context(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
            context.add_cookies([{"name": name, "value": value, "url": address}])
            page = context.new_page()
            page.goto(address)
            page.locator("#link-state.up").wait_for()
            page.evaluate(WATCH)

            def seen() -> dict[str, float]:
                found: dict[str, float] = page.evaluate("window.seenRows")
                return found

            yield seen
        finally:
            browser.close()
