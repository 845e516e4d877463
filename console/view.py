"""A ticket in an operator's words: why it was raised, how far it has come, who did what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from alerts.rules import Decision
from alerts.tickets import Act, Action, Disposed, Ticket, TicketState, last_act, seconds
from console.queries import CommandRow, EventRow, TicketDetail
from console.settings import ConsoleSettings, Language
from console.words import say

__all__ = ["TicketView", "age", "answer_in_words", "span", "ticket_view"]

NOTICE_S = 90.0  # how long the answer to one's own command stays on the ticket
CHART_WIDTH = 600
CHART_HEIGHT = 44
_BOXES = "-boxes.jpg"


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of the reader's own command."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class GridStep:
    """One level of the grid path; `called` is when the ticket was called up to it."""

    name: str
    called: float | None


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the four stages; `state` is ``done``, ``active`` or ``waiting``."""

    name: str
    state: str
    time: float | None
    after: str
    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or clip, by an address of ours."""

    kind: str
    url: str
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One observation in the chart of a decision."""

    x: float
    width: float
    height: float
    condition: str
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The observations of a decision from left to right."""

    width: int
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of the history."""

    t: float
    what: str
    who: str
    source: str
    note: str
    by_person: bool


@dataclass(slots=True)
class TicketView:
    """What the ticket's page shows beside the ticket's own fields."""

    stages: list[Stage]
    why: list[str]
    chart: Chart | None
    details: list[tuple[str, str]]
    media: list[Media]
    photos: list[Media]
    history: list[HistoryEntry]
    grid_path: list[GridStep]
    pending: bool
    notices: list[Notice] = field(default_factory=list)


def age(value: float) -> str:
    """How long ago something was, in whole seconds: nobody counts tenths."""
    return f"{value:.0f} s" if value < 10 else span(value)


def span(value: float) -> str:
    """A duration as people read it: 0.8 s, 45 s, 3:05, 2:03:05."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, secs = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def ticket_view(
    detail: TicketDetail,
    *,
    settings: ConsoleSettings,
    language: Language,
    reader: str,
    host_away: bool,
    clock: Callable[[float], str],
    now: float,
) -> TicketView:
    """The page of a ticket.

    Args:
        detail: The ticket with its history.
        settings: For the names of grids.
        language: Of the words.
        reader: The user who looks: sees what became of the own commands.
        host_away: Whether the ticket's host is known to be offline.
        clock: Seconds since the epoch as a time of day.
        now: Seconds since the epoch.
    """

    def word(key: str, **values: object) -> str:
        return say(language, key, **values)

    ticket = detail.ticket
    media = list(_media(ticket, word))
    return TicketView(
        stages=list(_stages(ticket, word)),
        why=list(_why(ticket, word, clock)),
        chart=_chart(ticket.analyse.decision, word),
        details=list(_details(ticket, word, language)),
        media=[item for item in media if item.kind != "photo"],
        photos=[item for item in media if item.kind == "photo"],
        history=_history(detail, word),
        grid_path=list(_grid_path(ticket, settings, language)),
        pending=any(_waits(one, now) for one in detail.commands),
        notices=list(_notices(detail, word, reader, host_away, clock, now)),
    )


_Word = Callable[..., str]


def _stages(ticket: Ticket, word: _Word) -> Iterator[Stage]:
    captured = seconds(ticket.capture.time)
    since = seconds(ticket.analyse.since)
    raised = seconds(ticket.warn.raised)
    published = seconds(ticket.created)
    width, height = ticket.capture.width_px, ticket.capture.height_px
    size = word("stage.size", width=width, height=height) if width and height else ""
    yield Stage("capture", "done", captured, "", size)
    yield Stage(
        "analyse", "done", since, "", word("stage.dwell", span=span(max(0.0, raised - since)))
    )
    yield Stage(
        "warn",
        "done",
        raised,
        "",
        word("stage.published", span=span(max(0.0, published - captured))),
    )
    act, text = _furthest(ticket.dispose, word)
    if act is None:
        yield Stage("dispose", "waiting", None, "", word("stage.nobody"))
        return
    t = seconds(act.time)
    closed = ticket.state is TicketState.DISPOSED
    yield Stage("dispose", "done" if closed else "active", t, span(max(0.0, t - raised)), text)


def _furthest(disposal: Disposed, word: _Word) -> tuple[Act | None, str]:
    if disposal.disposed is not None:
        outcome = word(f"outcome.{disposal.outcome}") if disposal.outcome else ""
        return disposal.disposed, f"{outcome} · {disposal.disposed.by}"
    if disposal.dispatched is not None:
        to = disposal.dispatched.to or disposal.dispatched.by
        return disposal.dispatched, f"{word('state.dispatched')} → {to}"
    if disposal.acknowledged is not None:
        by = disposal.acknowledged.by
        return disposal.acknowledged, f"{word('state.acknowledged')} · {by}"
    return None, ""


def _why(ticket: Ticket, word: _Word, clock: Callable[[float], str]) -> Iterator[str]:
    decision = ticket.analyse.decision
    if decision is not None:
        yield word(
            "why.dwell",
            since=clock(decision.since),
            held=span(decision.held_s),
            known=span(decision.known_s),
            ratio=f"{decision.ratio:.0%}",
        )
        after = decision.parameters.get("raise_after")
        if after is not None:
            ratio = decision.parameters.get("min_ratio", 0.0)
            yield word("why.rule", after=span(after), ratio=f"{ratio:.0%}")
    else:
        yield ticket.warn.rule
    said = word("why.confidence", confidence=f"{ticket.analyse.confidence:.0%}")
    if ticket.analyse.model:
        said += " " + word("why.model", model=ticket.analyse.model)
    yield said
    if ticket.warn.attached:
        yield word("why.attached", count=ticket.warn.attached)


def _chart(decision: Decision | None, word: _Word) -> Chart | None:
    if decision is None or len(decision.samples) < 3:
        return None
    samples = decision.samples
    first, last = samples[0].t, samples[-1].t
    if last <= first:
        return None
    # The rule's right hold: a condition stands for the time since the observation before it.
    bars = []
    for before, sample in pairwise(samples):
        x = (before.t - first) / (last - first) * CHART_WIDTH
        end = (sample.t - first) / (last - first) * CHART_WIDTH
        condition = str(sample.condition.value)
        height = CHART_HEIGHT * (0.35 if condition == "unknown" else max(0.08, sample.confidence))
        title = f"+{sample.t - first:.1f} s · {word(f'why.{condition}')} · {sample.confidence:.0%}"
        bars.append(
            Bar(round(x, 1), round(max(1.0, end - x - 1.5), 1), round(height, 1), condition, title)
        )
    return Chart(CHART_WIDTH, bars)


def _details(ticket: Ticket, word: _Word, language: Language) -> Iterator[tuple[str, str]]:
    said = ticket.analyse.detail
    for name, found in said.items():
        base, _, suffix = name.rpartition("_")
        if name == "since_s" or (suffix in ("zh", "en") and base in said):
            continue  # said elsewhere, or the words of an identifier, which stand in its place
        value = said.get(f"{name}_{language}", found)
        shown = _value(value, word)
        if shown:
            yield _label(name, word), shown


def _label(name: str, word: _Word) -> str:
    key = f"detail.{name}"
    label = word(key)
    return name.replace("_", " ") if label == key else label


def _value(value: Any, word: _Word) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, bool) or value is None:
        return word(f"detail.{'yes' if value else 'no'}") if value is not None else ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, str):
        key = f"detail_value.{value}"
        said = word(key)
        return value.replace("_", " ") if said == key else said
    if isinstance(value, dict):
        return " · ".join(
            f"{_label(name, word)} {_value(one, word)}" for name, one in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(_value(one, word) for one in value)
    return str(value)


def _media(ticket: Ticket, word: _Word) -> Iterator[Media]:
    found = [(n, item) for n, item in enumerate(ticket.evidence) if item.url]
    # What was seen, marked, comes first; then the same as the camera gave it; then how it came about.
    order = {"boxes": 0, "picture": 1, "clip": 2, "photo": 3}

    def name(path: str, kind: str) -> str:
        return "boxes" if kind == "picture" and path.endswith(_BOXES) else kind

    for n, item in sorted(found, key=lambda one: (order[name(one[1].path, one[1].kind)], one[0])):
        label = word(f"media.{name(item.path, item.kind)}")
        yield Media(item.kind, f"/tickets/{ticket.id}/evidence/{n}", label)


def _history(detail: TicketDetail, word: _Word) -> list[HistoryEntry]:
    acts = list(_acts(detail.ticket.dispose))
    entries = [_told(event, acts, word) for event in detail.events]
    told = {(event.kind, event.version) for event in detail.events}
    # The feed's events are not retained: what happened while the console was away is in the ticket itself.
    for action, act in acts:
        known = (action.value, act.version) in told or any(
            event.kind == action.value and abs(event.t - seconds(act.time)) < 0.01
            for event in detail.events
        )
        if not known:
            entries.append(_of_act(action, act, detail.ticket.dispose, word))
    if ("raised", 1) not in told:
        raised = seconds(detail.ticket.warn.raised)
        entries.append(HistoryEntry(raised, word("history.raised"), "", "", "", by_person=False))
    return sorted(entries, key=lambda one: one.t)


def _acts(disposal: Disposed) -> Iterator[tuple[Action, Act]]:
    for action, act in (
        (Action.ACKNOWLEDGE, disposal.acknowledged),
        (Action.DISPATCH, disposal.dispatched),
        (Action.DISPOSE, disposal.disposed),
        (Action.REOPEN, disposal.reopened),
        (Action.REASSIGN, disposal.reassigned),
    ):
        if act is not None:
            yield action, act
    for note in disposal.notes:
        yield Action.NOTE, note


def _of_act(action: Action, act: Act, disposal: Disposed, word: _Word) -> HistoryEntry:
    outcome = disposal.outcome if action is Action.DISPOSE else None
    what = _what(action.value, act.by, act.to, outcome.value if outcome else None, word)
    return HistoryEntry(seconds(act.time), what, act.by, act.source, act.note, by_person=True)


def _told(event: EventRow, acts: list[tuple[Action, Act]], word: _Word) -> HistoryEntry:
    by_person = event.kind in set(Action)
    who, source, note = event.who, event.source, event.note
    to = event.document.get("to") or event.document.get("grid_to")
    for action, act in acts:
        same = act.version == event.version or abs(seconds(act.time) - event.t) < 0.01
        if by_person and action.value == event.kind and same:
            who, source, note, to = act.by, act.source, act.note, act.to
    outcome = event.document.get("outcome") if event.kind == Action.DISPOSE else None
    what = _what(event.kind, who, str(to) if to else None, str(outcome) if outcome else None, word)
    return HistoryEntry(event.t, what, who if by_person else "", source, note, by_person=by_person)


def _what(kind: str, who: str, to: str | None, outcome: str | None, word: _Word) -> str:
    if outcome:
        return word("history.dispose_as", outcome=word(f"outcome.{outcome}"))
    if kind == Action.DISPATCH and to == who:
        return word("history.goes")
    if to and kind in (Action.DISPATCH, Action.REASSIGN):
        return word(f"history.{kind}_to", to=to)
    key = f"history.{kind}"
    said = word(key)
    return kind.replace("_", " ") if said == key else said


def _grid_path(ticket: Ticket, settings: ConsoleSettings, language: Language) -> Iterator[GridStep]:
    called = {one.grid: seconds(one.time) for one in ticket.warn.escalations}
    levels = ticket.grid.split("/") if ticket.grid else []
    for n, level in enumerate(levels):
        path = "/".join(levels[: n + 1])
        yield GridStep(settings.grid_name(path, level, language), called.get(path))


def _waits(command: CommandRow, now: float) -> bool:
    return command.state == "pending" and command.expires_t > now


def _notices(
    detail: TicketDetail,
    word: _Word,
    reader: str,
    host_away: bool,
    clock: Callable[[float], str],
    now: float,
) -> Iterator[Notice]:
    own = next((one for one in detail.commands if one.who == reader), None)
    if own is None:
        return
    action = word(f"action.{own.action}")
    if _waits(own, now):
        key = "command.sent_away" if host_away else "command.sent"
        text = word(key, action=action, host=detail.ticket.host, until=clock(own.expires_t))
        yield Notice("major" if host_away else "", text)
    elif own.state == "pending":
        if now - own.expires_t < NOTICE_S * 10:
            yield Notice("critical", word("command.silent", action=action))
    elif own.state == "refused" and now - (own.answered_t or now) < NOTICE_S:
        yield Notice("critical", _refusal(own, detail.ticket, word))


def answer_in_words(command: CommandRow, ticket: Ticket, language: Language) -> Notice:
    """Why a command was refused, for the one who sent it."""

    def word(key: str, **values: object) -> str:
        return say(language, key, **values)

    return Notice("critical", _refusal(command, ticket, word))


def _refusal(command: CommandRow, ticket: Ticket, word: _Word) -> str:
    action = word(f"action.{command.action}")
    if command.code == "unsent":
        return word("command.unsent", action=action)
    last = last_act(ticket)
    if command.code in ("version_conflict", "illegal_transition") and last is not None:
        state = word(f"state.{ticket.state.value}")
        return word("command.conflict", action=action, who=last[1].by, state=state)
    return word("command.refused", action=action, message=command.message)
