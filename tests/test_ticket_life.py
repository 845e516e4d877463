"""The whole life of tickets at the desk: any order of commands, photos, two operators at once, and what is recorded."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

from alerts.desk import TicketDesk
from alerts.dispatch import Dispatch, DispatchSettings
from alerts.evidence import EvidenceSettings, EvidenceStore
from alerts.photos import checked_photo
from alerts.store import Batch, Store
from alerts.storm import StormControl, StormSettings
from alerts.tickets import (
    PHOTO_BYTES,
    TRANSITIONS,
    Action,
    Command,
    Evidence,
    Outcome,
    Reply,
    Ticket,
    TicketState,
    instant,
)
from alerts.topics import Topics
from pipeline.exceptions import CommandError, EvidenceError
from tests.test_desk import CAMERAS, T0, Camera, command, describe, messages

# Where there is one, a disk in memory: what is tested is order, not fsync.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
TREE: dict[str, Any] = {
    "town": {"grids": {"12": {"grids": {"3": {}, "4": {}}}, "13": {"grids": {"1": {}}}}}
}
GRIDS = ("town/12/3", "town/12/4", "town/13/1")


def jpeg(width: int = 64, height: int = 48, **how: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(out, "JPEG", **how)
    return out.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "tickets.sqlite") as opened:
        yield opened


@pytest.fixture
def evidence(tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(EvidenceSettings(min_free=0), tmp_path / "evidence")


Keep = Callable[[str, float, bytes], Evidence]


def desk_with(store: Store, keep: Keep | None = None) -> TicketDesk:
    storm = StormControl(StormSettings(group_window=0), UTC)
    dispatch = Dispatch(DispatchSettings.model_validate({"grids": TREE, "departments": {}}))
    topics = Topics("town")
    return TicketDesk(store, topics, "host1", CAMERAS, describe, storm, dispatch, keep_photo=keep)


def act(desk: TicketDesk, ticket: Ticket, action: Action, command_id: str, **more: object) -> Reply:
    reply = desk.handle(command(ticket, action, command_id, **more), T0 + 60)
    assert reply is not None
    return reply


class Life(RuleBasedStateMachine):
    """People, the analysis and restarts at one ticket, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.store = Store(self.folder / "t.sqlite")
        self.desk = desk_with(self.store)
        self.ticket = Camera(self.desk).alarm()
        self.id = self.ticket.id
        self.now = T0 + 60.0
        self.commands = 0
        self.expected = ["raised"]
        self.trail: list[Any] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(
        action=st.sampled_from(Action),
        user=st.sampled_from(("wang", "li")),
        behind=st.one_of(st.none(), st.integers(0, 3)),
        grid=st.sampled_from((*GRIDS, "nowhere")),
        outcome=st.sampled_from(Outcome),
        late=st.booleans(),
    )
    def somebody_commands(
        self,
        action: Action,
        user: str,
        behind: int | None,
        grid: str,
        outcome: Outcome,
        late: bool,
    ) -> None:
        before = self.current()
        self.commands += 1
        self.now += 1
        document: dict[str, Any] = {
            "command_id": f"c{self.commands}",
            "ticket_id": self.id,
            "action": action,
            "user": user,
            "expected_version": None if behind is None else max(1, before.version - behind),
            "expires": instant(self.now - 1) if late else None,
            "grid": grid if action is Action.REASSIGN else None,
            "outcome": outcome if action is Action.DISPOSE else None,
            "to": "fire brigade" if action is Action.DISPATCH else None,
        }
        sent = Command.model_validate(document)
        reply = self.desk.handle(sent, self.now)
        assert reply is not None
        after = self.current()
        if reply.ok:
            assert not late
            assert after.state is TRANSITIONS[action][before.state]
            assert after.version == before.version + 1
            assert after.grid == (grid if action is Action.REASSIGN else before.grid)
            assert (after.dispose.outcome is not None) == (after.state is TicketState.DISPOSED)
            self.expected.append(action.value)
        else:
            assert after == before
            self.expected.append("refused")
        assert self.desk.handle(sent, self.now + 5) == reply, "a repeat is answered alike"
        assert self.current() == after

    @rule(n=st.integers(1, 5))
    def a_clip_comes(self, n: int) -> None:
        before = self.current()
        known = {item.path for item in before.evidence}
        clip = Evidence(
            kind="clip", path=f"{n}.mp4", sha256="0" * 64, size_bytes=1, media_type="video/mp4",
            start=instant(T0), end=instant(T0 + 1),
        )  # fmt: skip
        self.desk.attach_evidence(self.id, [clip], self.now)
        if clip.path not in known:
            self.expected.append("evidence")

    @rule(minutes=st.integers(0, 40))
    def time_passes_and_it_may_be_called_upwards(self, minutes: int) -> None:
        before = self.current()
        self.now += minutes * 60
        called = self.desk.climb(self.now)
        assert self.desk.climb(self.now) == [], "once"
        if called:
            (after,) = called
            assert before.is_open
            assert after.version == before.version + 1
            assert len(after.warn.escalations) > len(before.warn.escalations)
            self.expected.append("escalated")

    @rule()
    def the_host_restarts(self) -> None:
        self.store.close()
        self.store = Store(self.folder / "t.sqlite")
        self.desk = desk_with(self.store)

    def current(self) -> Ticket:
        ticket = self.store.ticket(self.id)
        assert ticket is not None
        return ticket

    @invariant()
    def the_history_is_complete_and_only_grows(self) -> None:
        if not hasattr(self, "store"):
            return
        trail = self.store.events(self.id)
        assert trail[: len(self.trail)] == self.trail, "rows are never rewritten"
        self.trail = trail
        # A refusal beyond what is kept leaves no row; there are fewer here than that.
        assert [event.kind for event in trail] == self.expected
        versions = [event.version for event in trail if event.kind != "refused"]
        assert versions == list(range(1, self.current().version + 1))


Life.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLife = Life.TestCase


def test_of_two_operators_one_wins_and_the_other_is_told_who_did_what(store: Store) -> None:
    desk = desk_with(store)
    ticket = Camera(desk).alarm()
    sent = [
        Command(command_id=f"c-{user}", ticket_id=ticket.id, action=Action.DISPOSE, user=user,
                outcome=Outcome.CONFIRMED, expected_version=1)
        for user in ("wang", "li", "zhao", "chen")
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda one: desk.handle(one, T0 + 60), sent))
    won = [reply for reply in replies if reply is not None and reply.ok]
    assert len(won) == 1
    stored = store.ticket(ticket.id)
    assert stored is not None
    assert stored.dispose.disposed is not None
    winner = stored.dispose.disposed.by
    for reply in replies:
        if reply is not None and not reply.ok:
            assert reply.code == "version_conflict"
            assert f"{winner} did dispose as confirmed at 2023-" in reply.message
            assert (reply.version, reply.state) == (2, TicketState.DISPOSED)


def test_what_the_analysis_added_is_no_conflict_but_what_a_person_did_is(store: Store) -> None:
    desk = desk_with(store)
    camera = Camera(desk)
    ticket = camera.alarm()
    camera.ends()  # version 2, by nobody
    assert act(desk, ticket, Action.ACKNOWLEDGE, "c1", expected_version=1).version == 3
    late = act(desk, ticket, Action.DISPATCH, "c2", expected_version=2, to="li")
    assert late.code == "version_conflict"
    assert "wang did acknowledge from cli" in late.message
    assert act(desk, ticket, Action.DISPATCH, "c3", expected_version=3, to="li").ok
    assert act(desk, ticket, Action.NOTE, "c4", expected_version=9).code == "version_conflict"


def test_a_reassigned_ticket_is_new_to_its_grid_and_the_old_one_sees_it_go(store: Store) -> None:
    desk = desk_with(store)
    ticket = Camera(desk).alarm()
    act(desk, ticket, Action.ACKNOWLEDGE, "c1")
    assert act(desk, ticket, Action.REASSIGN, "c2", grid="nowhere").code == "malformed"
    assert act(desk, ticket, Action.REASSIGN, "c3", grid=ticket.grid).code == "malformed"
    assert act(desk, ticket, Action.REASSIGN, "c4").code == "malformed"
    assert act(desk, ticket, Action.NOTE, "c5", grid="town/12/4").code == "malformed"
    reply = act(desk, ticket, Action.REASSIGN, "c6", grid="town/12/4", note="next door")
    assert (reply.ok, reply.state) == (True, TicketState.WARNED)
    moved = store.ticket(ticket.id)
    assert moved is not None
    assert moved.grid == "town/12/4"
    assert moved.dispose.acknowledged is None
    assert moved.dispose.reassigned is not None
    assert (moved.dispose.reassigned.by, moved.dispose.reassigned.to) == ("wang", "town/12/4")
    for grid in ("town/12/3", "town/12/4"):
        (row,) = messages(store, f"gridwatch/town/grids/{grid}/inbox")
        assert Ticket.model_validate_json(row.message.payload) == moved
    event = store.events(ticket.id)[-1]
    assert (event.document["grid_before"], event.document["grid"]) == ("town/12/3", "town/12/4")
    act(desk, ticket, Action.ACKNOWLEDGE, "c7")
    (old,) = messages(store, "gridwatch/town/grids/town/12/3/inbox")
    assert Ticket.model_validate_json(old.message.payload).version == moved.version


def test_an_event_tells_a_mirror_all_that_the_audit_trail_has(store: Store) -> None:
    desk = desk_with(store)
    ticket = Camera(desk).alarm()
    act(desk, ticket, Action.DISPATCH, "c1", to="li", note="快去")
    act(desk, ticket, Action.REASSIGN, "c2", grid="town/13/1")
    told = [
        json.loads(row.message.payload)
        for row in store.pending(100)
        if "/events/" in row.message.topic
    ]
    assert [t["kind"] for t in told] == ["raised", "dispatch", "reassign"]
    assert [t["by"] for t in told] == ["host1", "wang", "wang"]
    assert [t["from"] for t in told] == ["", "cli", "cli"]
    assert [t["command_id"] for t in told] == [None, "c1", "c2"]
    assert (told[1]["to"], told[1]["note"]) == ("li", "快去")
    assert told[2]["detail"] == {"grid": "town/13/1", "grid_before": "town/12/3"}
    for event, message in zip(store.events(ticket.id), told, strict=True):
        lifted = {k: message[k] for k in ("note", "to", "command_id") if message[k] is not None}
        assert dict(event.document) == {**message["detail"], **lifted}


def test_photos_come_with_a_disposal_and_lie_on_the_disk_without_their_metadata(
    store: Store, evidence: EvidenceStore
) -> None:
    desk = desk_with(store, evidence.save_photo)
    ticket = Camera(desk).alarm()
    exif = Image.Exif()
    exif[0x0110] = "Phone of Li"
    exif[0x0112] = 6  # lies on its side
    photos = [text(jpeg(exif=exif)), text(jpeg())]
    reply = act(desk, ticket, Action.DISPOSE, "c1", outcome="confirmed", photos=photos)
    assert reply.ok
    stored = store.ticket(ticket.id)
    assert stored is not None
    kept = [item for item in stored.evidence if item.kind == "photo"]
    assert len({item.path for item in kept}) == 2
    assert stored.dispose.disposed is not None
    assert stored.dispose.disposed.photos == tuple(item.path for item in kept)
    assert store.events(ticket.id)[-1].document["photos"] == [item.path for item in kept]
    with Image.open(evidence.folder / kept[0].path) as first:
        assert (first.format, first.size) == ("JPEG", (48, 64))
        assert not first.getexif()
    assert b"Phone of Li" not in (evidence.folder / kept[0].path).read_bytes()
    assert "photos" not in json.loads(stored.to_json())
    # A note has its own, and the disposal keeps its.
    act(desk, ticket, Action.NOTE, "c2", note="after", photos=[text(jpeg())])
    again = store.ticket(ticket.id)
    assert again is not None
    assert len(again.dispose.notes[-1].photos) == 1
    assert again.dispose.disposed == stored.dispose.disposed


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        pytest.param("%%%", "no base64", id="base64"),
        pytest.param(text(b"\xff\xd8\xff\xe0" + b"x" * 500), "no whole JPEG", id="magic alone"),
        pytest.param(text(jpeg()[:-600]), "no whole JPEG", id="cut short"),
        pytest.param(text(b"GIF89a" + jpeg()), "no whole JPEG", id="another format"),
        pytest.param(text(jpeg(8, 8)), "8x8 pixels", id="tiny"),
        pytest.param(text(jpeg(4200, 16, quality=10)), "4200x16 pixels", id="long"),
    ],
)
def test_what_is_no_photo_is_refused_and_changes_nothing(
    store: Store, evidence: EvidenceStore, photo: str, said: str
) -> None:
    desk = desk_with(store, evidence.save_photo)
    ticket = Camera(desk).alarm()
    reply = act(
        desk, ticket, Action.DISPOSE, "c1", outcome="confirmed", photos=[text(jpeg()), photo]
    )
    assert (reply.ok, reply.code) == (False, "malformed")
    assert "photos[1]" in reply.message
    assert said in reply.message
    assert store.ticket(ticket.id) == ticket
    assert not list(evidence.folder.rglob("*.jpg"))


def test_a_bomb_is_refused_by_its_header() -> None:
    data = bytearray(jpeg(64, 48))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # height and width
    with pytest.raises(CommandError, match="too many pixels"):
        checked_photo(text(bytes(data)))


def test_a_photo_over_256_kb_is_refused_by_schema_and_by_size() -> None:
    with pytest.raises(CommandError, match="expected at most 262144") as caught:
        checked_photo(text(b"x" * (PHOTO_BYTES + 1)))
    assert caught.value.code == "malformed"
    document = {"command_id": "c", "action": "note", "photos": ["A" * 400_000]}
    with pytest.raises(CommandError, match=r"command: photos\.0"):
        Command.parse(json.dumps(document), user="w", ticket_id="t")
    document = {"command_id": "c", "action": "note", "photos": ["A"] * 4}
    with pytest.raises(CommandError, match="command: photos"):
        Command.parse(json.dumps(document), user="w", ticket_id="t")


@pytest.mark.parametrize("action", [Action.ACKNOWLEDGE, Action.DISPATCH, Action.REOPEN])
def test_photos_belong_to_disposal_and_notes(store: Store, action: Action) -> None:
    desk = desk_with(store)
    ticket = Camera(desk).alarm()
    if action is Action.REOPEN:
        act(desk, ticket, Action.DISPOSE, "c0", outcome="test")
    reply = act(desk, ticket, action, "c1", photos=[text(jpeg())])
    assert reply.code == "malformed"


def test_a_full_disk_refuses_the_photos_and_says_what_would_pass(store: Store) -> None:
    def full(_camera: str, _t: float, _data: bytes) -> Evidence:
        raise EvidenceError("0 bytes free, expected at least 1")

    desk = desk_with(store, full)
    ticket = Camera(desk).alarm()
    reply = act(desk, ticket, Action.DISPOSE, "c1", outcome="confirmed", photos=[text(jpeg())])
    assert reply.code == "photo_not_stored"
    assert "expected the command without it" in reply.message
    assert act(desk, ticket, Action.DISPOSE, "c2", outcome="confirmed").ok


def test_photos_of_one_ticket_are_bounded(store: Store, evidence: EvidenceStore) -> None:
    desk = desk_with(store, evidence.save_photo)
    ticket = Camera(desk).alarm()
    photos = [text(jpeg(16, 16))] * 3
    for n in range(10):
        assert act(desk, ticket, Action.NOTE, f"c{n}", photos=photos).ok
    assert act(desk, ticket, Action.NOTE, "more", photos=photos).code == "too_large"


def test_what_was_refused_is_recorded_within_bounds(store: Store) -> None:
    desk = desk_with(store)
    ticket = Camera(desk).alarm()
    act(desk, ticket, Action.REOPEN, "c1")
    desk.refuse("mallory", ticket.id, "c2", CommandError("no JSON", code="malformed"), T0 + 9)
    first, second = store.events(ticket.id)[1:]
    assert (first.kind, first.who, first.document["code"]) == (
        "refused",
        "wang",
        "illegal_transition",
    )
    assert (second.who, second.document["message"]) == ("mallory", "no JSON")
    for n in range(80):
        desk.refuse("mallory", ticket.id, f"x{n}", CommandError("no", code="malformed"), T0 + 10)
    assert store.event_count(ticket.id, "refused") == 50
    assert store.ticket(ticket.id) == ticket


def test_the_audit_trail_cannot_be_rewritten(store: Store) -> None:
    ticket = Camera(desk_with(store)).alarm()
    with store._engine.connect() as connection:
        for statement in ("UPDATE events SET who = 'x'", "DELETE FROM events"):
            with pytest.raises(Exception, match="never rewritten"):
                connection.exec_driver_sql(statement)
    store.commit(Batch(T0)).result()
    assert [event.who for event in store.events(ticket.id)] == ["host1"]
