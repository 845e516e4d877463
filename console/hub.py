"""From a commit to the pages that show it: server-sent events, gathered for a moment and filtered per reader.

A reader that cannot keep up is told to reload rather than fed from an ever longer queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from starlette.concurrency import run_in_threadpool

from console.queries import Counts, TicketQuery, TicketReader, TicketRow
from console.settings import Language
from console.view import answer_in_words

__all__ = ["Hub", "Reader", "event"]

log = structlog.get_logger(__name__)

GATHER_S = 0.08  # what comes within this time goes out together
CHANGED_S = 1.0  # counts, and the hint that charts may be stale, at most so often
HEARTBEAT_S = 15.0  # proxies cut silent connections after 30 s or 60 s
QUEUE = 64  # events per reader
ROWS_AT_ONCE = 200  # more is a reload


def event(name: str, data: str = "", number: str = "") -> str:
    """One server-sent event (WHATWG HTML 9.2.6)."""
    lines = [f"event: {name}"]
    if number:
        lines.append(f"id: {number}")
    lines += [f"data: {line}" for line in (data.splitlines() or [""])]
    return "\n".join(lines) + "\n\n"


@dataclass(eq=False, slots=True)
class Reader:
    """One page that listens.

    Attributes:
        query: What its list shows; its scope guards everything it is told.
        language: In which rows are rendered.
        user: Who reads: hears what became of the own commands.
    """

    query: TicketQuery
    language: Language
    user: str = ""
    queue: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(QUEUE))

    def send(self, text: str) -> None:
        """Queue an event; if the reader is too slow, all that waits becomes one reload."""
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(event("reload"))


@dataclass(slots=True)
class _News:
    tickets: set[str] = field(default_factory=set)
    statuses: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    stale: bool = False


class Hub:
    """Fans changes out to the readers of one console process.

    Args:
        tickets: To look up what changed.
        render_row: A ticket as a row of the feed, for a language.
        render_counts: The numbers in the page's head, for a language.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        tickets: TicketReader,
        render_row: Callable[[TicketRow, Language], str],
        render_counts: Callable[[Counts, Language], str],
        clock: Callable[[], float],
    ) -> None:
        self._tickets = tickets
        self._render_row = render_row
        self._render_counts = render_counts
        self._clock = clock
        self._lock = threading.Lock()
        self._news = _News()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._readers: set[Reader] = set()
        self._closing = False

    @property
    def readers(self) -> int:
        """How many pages listen."""
        return len(self._readers)

    def publish(self, kind: str, subjects: str | Iterable[str] = ()) -> None:
        """Tell the readers that something changed; from any thread.

        Args:
            kind: ``ticket``, ``command``, ``camera``, ``host``, or another word for what only makes charts stale.
            subjects: Ids.
        """
        ids = {subjects} if isinstance(subjects, str) else set(subjects)
        with self._lock:
            if kind == "ticket":
                self._news.tickets |= ids
            elif kind in ("camera", "host"):
                self._news.statuses |= ids
            elif kind == "command":
                self._news.commands |= ids
            self._news.stale = True
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended between
                loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Serve until cancelled."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        changed_at = 0.0
        stale = False
        loop = asyncio.get_running_loop()
        while True:
            wait_s = None if not stale else max(0.0, changed_at + CHANGED_S - loop.time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            if self._wake.is_set():
                await asyncio.sleep(GATHER_S)
            self._wake.clear()
            with self._lock:
                news, self._news = self._news, _News()
            stale = stale or news.stale
            try:
                if self._readers and (news.tickets or news.statuses or news.commands):
                    await self._tell(news)
                if stale and loop.time() >= changed_at + CHANGED_S:
                    changed_at, stale = loop.time(), False
                    if self._readers:
                        await self._tell_changed()
            except Exception:
                log.exception("pages were not told of a change")

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        self._closing = True
        for reader in self._readers:
            reader.send("")

    async def stream(self, reader: Reader, since: float | None) -> AsyncIterator[str]:
        """The events of one reader until it goes away.

        Args:
            reader: Who.
            since: When its page was rendered: what reached us after that is sent first.
        """
        self._readers.add(reader)
        try:
            yield "retry: 2000\n\n"
            if since is not None:
                for text in await run_in_threadpool(self._missed, reader, since):
                    yield text
            while not self._closing:
                try:
                    yield await asyncio.wait_for(reader.queue.get(), HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._readers.discard(reader)

    def _missed(self, reader: Reader, since: float) -> list[str]:
        everything = TicketQuery(scope=reader.query.scope, changed_t=since, limit=ROWS_AT_ONCE)
        rows = self._tickets.find(everything, self._clock())
        if len(rows) == ROWS_AT_ONCE:
            return [event("reload")]
        matching = self._tickets.matching(reader.query, [row.id for row in rows])
        return self._events(rows, matching, {})(reader) if rows else []

    async def _tell(self, news: _News) -> None:
        readers = list(self._readers)
        if news.tickets:
            plan = await run_in_threadpool(self._plan, sorted(news.tickets), readers)
            for reader, texts in plan:
                for text in texts:
                    reader.send(text)
        if news.commands:
            for reader, text in await run_in_threadpool(
                self._answers, sorted(news.commands), readers
            ):
                reader.send(text)
        for subject in sorted(news.statuses):
            for reader in readers:
                reader.send(event("status", subject))

    def _answers(self, ids: Sequence[str], readers: Sequence[Reader]) -> list[tuple[Reader, str]]:
        """What was refused, to those who asked for it; what was done they see."""
        told = []
        for command in self._tickets.commands(ids):
            waiting = [reader for reader in readers if reader.user == command.who]
            detail = self._tickets.get(command.ticket_id, "") if waiting else None
            if detail is not None and command.state == "refused":
                for reader in waiting:
                    notice = answer_in_words(command, detail.ticket, reader.language)
                    said = json.dumps(
                        {"kind": notice.kind, "text": notice.text}, ensure_ascii=False
                    )
                    told.append((reader, event("answer", said)))
        return told

    def _plan(
        self, ids: Sequence[str], readers: Sequence[Reader]
    ) -> list[tuple[Reader, list[str]]]:
        if len(ids) > ROWS_AT_ONCE:
            return [(reader, [event("reload")]) for reader in readers]
        rows = self._tickets.rows(ids, self._clock())
        matches: dict[TicketQuery, set[str]] = {}
        rendered: dict[tuple[str, Language], str] = {}
        told = []
        for reader in readers:
            query = reader.query
            if query not in matches:
                matches[query] = self._tickets.matching(query, ids)
                visible = TicketQuery(scope=query.scope)
                if visible not in matches:
                    matches[visible] = self._tickets.matching(visible, ids)
            seen = [row for row in rows if row.id in matches[TicketQuery(scope=query.scope)]]
            if seen:
                told.append((reader, self._events(seen, matches[query], rendered)(reader)))
        return told

    def _events(
        self,
        rows: Sequence[TicketRow],
        matching: set[str],
        rendered: dict[tuple[str, Language], str],
    ) -> Callable[[Reader], list[str]]:
        def of(reader: Reader) -> list[str]:
            parts = []
            # The oldest first: each is put where its id belongs, so the newest ends on top.
            for row in sorted(rows, key=lambda one: one.id):
                key = row.id, reader.language
                if row.id not in matching:
                    parts.append(f'<li data-id="{row.id}" data-gone></li>')
                    continue
                if key not in rendered:
                    rendered[key] = self._render_row(row, reader.language)
                parts.append(rendered[key])
            newest = max(row.received_t for row in rows)
            return [event("rows", "\n".join(parts), f"{newest:.3f}")]

        return of

    async def _tell_changed(self) -> None:
        groups: dict[tuple[str, Language], list[Reader]] = {}
        for reader in self._readers:
            groups.setdefault((reader.query.scope, reader.language), []).append(reader)
        for (scope, language), readers in groups.items():
            counts = await run_in_threadpool(self._tickets.counts, scope)
            text = event("counts", self._render_counts(counts, language)) + event("changed")
            for reader in readers:
                reader.send(text)
