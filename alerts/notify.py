"""Calls to people beside MQTT: WeCom, DingTalk, Feishu, SMS, mail, webhooks and whatever else apprise speaks.

A call waits in the store until it was delivered, so that it is made at least once; a crash between the delivery and its
record repeats it with the same reference (its last line). What nobody needs any more (somebody took the ticket) is not
sent; a person's quiet hours and a department's closing time put off all but critical tickets; what comes from one grid
within `group` is one message. A contact's URL holds a password: it is in no log and in no error.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo

import structlog

from alerts.calls import Call
from alerts.dispatch import Dispatch, DispatchSettings, Person
from alerts.rules import SEVERITY_RANK
from alerts.store import Batch, Event, Store
from alerts.tickets import Ticket, TicketState
from pipeline.exceptions import StoreError

__all__ = ["Deliver", "Notifier", "compose", "contact_problems", "deliver", "is_installed"]

log = structlog.get_logger(__name__)

RETRY_S = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)  # after so many failures; the last goes on
POLL_S = 5.0
STORE_RETRY_S = 5.0
WORKERS = 4  # a contact that hangs for seconds must not hold up the others
LISTED = 5  # tickets named in a message of many; a phone shows no more
HORIZON_MIN = 8 * 24 * 60  # quiet hours and closing times repeat within a week

Deliver = Callable[[str, str, str], bool]
"""Sends (contact URL, title, body); whether it was taken."""

_SEVERITIES = {
    "zh": {"critical": "紧急", "major": "重要", "minor": "一般"},
    "en": {"critical": "CRITICAL", "major": "Major", "minor": "Minor"},
}
_REASONS = {
    "zh": {
        "raised": "新告警",
        "reopened": "重新打开",
        "reassigned": "转派至本网格",
        "dispatched": "已派给您",
        "unacknowledged": "无人确认，现上报",
        "undisposed": "超时未处置，现上报",
    },
    "en": {
        "raised": "New alarm",
        "reopened": "Reopened",
        "reassigned": "Handed to your grid",
        "dispatched": "Dispatched to you",
        "unacknowledged": "Nobody has acknowledged it",
        "undisposed": "Not disposed of in time",
    },
}
_WORDS = {
    "zh": {
        "place": "地点：", "time": "时间：", "reason": "事由：", "many": "{n} 起待处置事件",
        "more": "另有 {n} 起", "simulated": "（模拟画面）", "reference": "编号：", "sep": " · ",
    },
    "en": {
        "place": "Place: ", "time": "Time: ", "reason": "Reason: ", "many": "{n} open tickets",
        "more": "and {n} more", "simulated": " (simulated)", "reference": "Ref: ", "sep": " · ",
    },
}  # fmt: skip


def is_installed() -> bool:
    """Whether the extra `notify` is there."""
    return importlib.util.find_spec("apprise") is not None


def deliver(url: str, title: str, body: str) -> bool:
    """Send by apprise; False if the service did not take it, or the URL is none of a service."""
    import apprise

    # Its logger names hosts and tokens of URLs.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    service = apprise.Apprise()
    return bool(service.add(url)) and bool(service.notify(title=title, body=body))


def contact_problems(settings: DispatchSettings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Contacts that cannot be called, as (path, in words without the URL)."""
    with_contacts = [person for person in settings.people if person.contacts]
    if not with_contacts:
        return
    if not is_installed():
        yield (
            ("people",),
            (
                f"{len(with_contacts)} people have contacts, but apprise is not installed; "
                "expected pip install 'gridwatch[notify]'"
            ),
        )
        return
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    for index, person in enumerate(settings.people):
        for at, contact in enumerate(person.contacts):
            url = contact.get_secret_value()
            if not apprise.Apprise().add(url):
                scheme, found, _ = url.partition("://")
                kind = repr(scheme) if found else "no scheme"
                yield (
                    ("people", index, "contacts", at),
                    (
                        f"is no contact that apprise knows (found {kind}), "
                        "expected a URL such as wecombot://KEY or mailto://USER:PASSWORD@HOST"
                    ),
                )


class Notifier:
    """Delivers the calls of one host from its store.

    Args:
        store: Holds the calls.
        dispatch: People, departments and grids.
        host: In whose name a failure is recorded.
        zone: The site's time zone, in which quiet hours and times in messages are.
        send: Delivers one message.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        dispatch: Dispatch,
        host: str,
        zone: tzinfo,
        *,
        send: Deliver = deliver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._settings = dispatch.settings.calls
        self._host = host
        self._zone = zone
        self._send = send
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}
        self._failing: dict[str, int] = {}
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="notify")
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._store.on_messages(self._wake.set)
        self._thread.start()

    def close(self, timeout_s: float = 3.0) -> None:
        """End; what was not delivered waits in the store."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def step(self, t: float) -> int:
        """Deliver what is due at `t`; gives the number of messages that were taken.

        Raises:
            StoreError: if the store cannot be used; what was delivered is delivered again.
        """
        due = self._store.due_calls(t)
        if not due:
            return 0
        tickets: dict[str, Ticket | None] = {}
        groups: dict[tuple[str, str], list[tuple[Call, Ticket]]] = {}
        changed: list[Call] = []
        failed: list[Call] = []
        for call in due:
            if call.ticket_id not in tickets:
                tickets[call.ticket_id] = self._store.ticket(call.ticket_id)
            ticket, person = tickets[call.ticket_id], self._dispatch.person(call.person)
            if ticket is None or not _is_needed(call, ticket):
                changed.append(replace(call, state="answered", done_t=t))
            elif (
                person is None or not person.contacts or t - call.created_t > self._settings.give_up
            ):
                failed.append(replace(call, state="failed", done_t=t))
            elif (later_t := self._put_off(call, ticket, person, t)) > t:
                changed.append(replace(call, due_t=later_t))
            else:
                groups.setdefault((call.person, call.inbox), []).append((call, ticket))
        taken = list(self._pool.map(self._deliver, groups, groups.values()))
        for (key, members), was_taken in zip(groups.items(), taken, strict=True):
            for call, _ in members:
                if was_taken:
                    changed.append(replace(call, state="sent", done_t=t))
                else:
                    wait_s = RETRY_S[min(call.attempts, len(RETRY_S) - 1)]
                    changed.append(replace(call, attempts=call.attempts + 1, due_t=t + wait_s))
            if was_taken:
                self._last[key] = t
        self._tell(list(groups), taken)
        events = [
            Event(
                call.ticket_id, call.version, "uncalled", self._host, t, "",
                {"person": call.person, "reason": call.reason, "attempts": call.attempts},
            )
            for call in failed
            if tickets[call.ticket_id] is not None
        ]  # fmt: skip
        self._store.commit(Batch(t, calls=changed + failed, events=events)).result()
        return sum(taken)

    def _put_off(self, call: Call, ticket: Ticket, person: Person, t: float) -> float:
        """When the call may be made: now, or later."""
        if SEVERITY_RANK[ticket.severity] < SEVERITY_RANK["critical"]:
            moment = datetime.fromtimestamp(t, self._zone)
            office = self._dispatch.office(call.inbox)
            for minutes in range(HORIZON_MIN):
                then = moment + timedelta(minutes=minutes)
                if not person.is_quiet(then) and (office is None or office.is_open(then)):
                    if minutes:
                        return then.replace(second=0, microsecond=0).timestamp()
                    break
            else:
                return t + 86400.0  # never open: it is given up in time
        last_t = self._last.get((call.person, call.inbox))
        return t if last_t is None else max(t, last_t + self._settings.group)

    def _deliver(self, key: tuple[str, str], members: Sequence[tuple[Call, Ticket]]) -> bool:
        person = self._dispatch.person(key[0])
        if person is None:
            return False
        title, body = compose(person, members, self._dispatch, self._zone)
        for contact in person.contacts:
            try:
                if self._send(contact.get_secret_value(), title, body):
                    return True
            except Exception as error:  # noqa: BLE001 - a service's library raises anything, with the URL in it
                log.debug("contact failed", person=person.id, kind=type(error).__name__)
        return False

    def _tell(self, keys: Sequence[tuple[str, str]], taken: Sequence[bool]) -> None:
        """Log the first failure of a person's contacts and the recovery."""
        for (person, _), was_taken in zip(keys, taken, strict=True):
            if not was_taken:
                self._failing[person] = self._failing.get(person, 0) + 1
                if self._failing[person] == 1:
                    log.warning("person cannot be reached, trying again", person=person)
            elif failures := self._failing.pop(person, 0):
                log.info("person is reached again", person=person, failures=failures)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._patience_s())
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                while self.step(self._clock()) and not self._closing.is_set():
                    pass
            except StoreError as error:
                log.error("calls cannot be read or stored, retrying", reason=str(error))
                self._closing.wait(STORE_RETRY_S)
            except RuntimeError:
                if not self._closing.is_set():  # the pool was closed under us
                    raise

    def _patience_s(self) -> float:
        try:
            next_t = self._store.next_call_t()
        except StoreError:
            return STORE_RETRY_S
        return POLL_S if next_t is None else min(POLL_S, max(0.05, next_t - self._clock()))


def _is_needed(call: Call, ticket: Ticket) -> bool:
    if call.reason in ("undisposed", "dispatched"):
        return ticket.is_open
    return ticket.state is TicketState.WARNED


def compose(
    person: Person, members: Sequence[tuple[Call, Ticket]], dispatch: Dispatch, zone: tzinfo
) -> tuple[str, str]:
    """Title and body of the message to a person about one ticket or several, in the person's language."""
    language, words = person.language, _WORDS[person.language]
    # Of several calls about one ticket the newest says all.
    newest = {ticket.id: (call, ticket) for call, ticket in members}
    ordered = sorted(newest.values(), key=lambda one: (-SEVERITY_RANK[one[1].severity], one[1].id))
    worst = _SEVERITIES[language][ordered[0][1].severity]

    def name(ticket: Ticket) -> str:
        title = ticket.title.en if language == "en" else ticket.title.zh
        return title + (words["simulated"] if ticket.simulated else "")

    def where(ticket: Ticket) -> str:
        levels = ticket.grid.split("/") if ticket.grid else []
        paths = ["/".join(levels[: n + 1]) for n in range(len(levels))]
        grids = [dispatch.settings.grid(path) for path in paths]
        names = [
            grid.name.say(language, level) if grid is not None else level
            for grid, level in zip(grids, levels, strict=True)
        ]
        return words["sep"].join([*names, ticket.camera.name or ticket.camera.id])

    def when(ticket: Ticket) -> str:
        return ticket.warn.raised.astimezone(zone).strftime("%m-%d %H:%M:%S")

    base = dispatch.settings.calls.console_url.rstrip("/")
    if len(ordered) == 1:
        call, ticket = ordered[0]
        lines = [
            f"{words['place']}{where(ticket)}",
            f"{words['time']}{when(ticket)}",
            f"{words['reason']}{_REASONS[language][call.reason]}",
        ]
        if base:
            lines.append(f"{base}/tickets/{ticket.id}")
        title = name(ticket)
    else:
        lines = [
            f"{_SEVERITIES[language][ticket.severity]} {name(ticket)}, {where(ticket)}, {when(ticket)}"
            for _, ticket in ordered[:LISTED]
        ]
        if len(ordered) > LISTED:
            lines.append(words["more"].format(n=len(ordered) - LISTED))
        if base:
            lines.append(f"{base}/")
        title = words["many"].format(n=len(ordered))
    call, ticket = ordered[0]
    lines.append(f"{words['reference']}{ticket.id}/{call.version}")
    bracketed = f"【{worst}】{title}" if language == "zh" else f"[{worst}] {title}"
    return bracketed, "\n".join(lines)
