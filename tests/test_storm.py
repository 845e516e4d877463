"""Storm control: what it holds back, for how long, and what it never holds back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from alerts.rules import AlarmKey
from alerts.storm import HEALTH, MuteSettings, Shelf, StormControl, StormSettings, Verdict
from pipeline.units import TimeWindow

T0 = 1_700_000_000.0
FIRE = AlarmKey("lift", "fire", "zone:a")
PARKING = AlarmKey("lane", "illegal_parking", "stay:1")
WELL: Callable[[str], bool] = lambda _: False  # noqa: E731 - a constant of the tests


def control(group_of: Callable[[str], str] = lambda _: "", **settings: object) -> StormControl:
    base = {"group_window": 0, **settings}
    return StormControl(StormSettings.model_validate(base), UTC, group_of)


def judge(storm: StormControl, key: AlarmKey, t: float, *, critical: bool = False) -> Verdict:
    return storm.judge(key, t, critical=critical, unwell=WELL)


def test_a_budget_is_spent_and_refilled_evenly() -> None:
    storm = control(budget=3, budget_window=300)
    assert [judge(storm, PARKING, T0 + n).code for n in range(5)] == [
        "raised",
        "raised",
        "raised",
        "over_budget",
        "over_budget",
    ]
    held = judge(storm, PARKING, T0 + 50)
    assert held.retry_t == pytest.approx(T0 + 100)
    assert judge(storm, PARKING, held.retry_t).action == "raise"
    assert judge(storm, PARKING, held.retry_t + 1).action == "hold"


def test_each_camera_and_scenario_has_a_budget_of_its_own() -> None:
    storm = control(budget=1)
    keys = [PARKING, PARKING._replace(camera_id="gate"), PARKING._replace(scenario="x")]
    assert [judge(storm, key, T0).action for key in keys] == ["raise"] * 3
    assert judge(storm, PARKING._replace(subject="stay:2"), T0).action == "hold"


def test_critical_alarms_pass_a_spent_budget_up_to_a_cap_of_their_own() -> None:
    storm = control(budget=1, critical_budget=5)
    judge(storm, FIRE, T0)
    assert judge(storm, FIRE, T0).code == "over_budget"
    verdicts = [judge(storm, FIRE, T0, critical=True) for _ in range(6)]
    assert [v.action for v in verdicts] == ["raise"] * 5 + ["hold"]
    assert verdicts[-1].reason


def test_critical_alarms_over_their_cap_are_told_once_as_an_error() -> None:
    storm = control(critical_budget=5)
    with capture_logs() as logs:
        for _ in range(50):
            judge(storm, FIRE, T0, critical=True)
    assert [(entry["log_level"], entry["camera"]) for entry in logs] == [("error", "lift")]


@given(
    st.lists(st.floats(0, 50), max_size=200),
    st.integers(1, 10),
    st.sampled_from([10.0, 100.0, 3600.0]),
)
def test_no_window_sees_more_than_twice_the_budget(
    gaps: list[float], budget: int, window: float
) -> None:
    storm = control(budget=budget, budget_window=window)
    t, raised = T0, []
    for gap in gaps:
        t += gap
        if judge(storm, PARKING, t).action == "raise":
            raised.append(t)
    for start in raised:
        assert sum(start <= other < start + window for other in raised) <= 2 * budget


def test_alarms_of_the_next_moments_are_attached_to_the_ticket() -> None:
    storm = control(group_window=60)
    storm.raised(PARKING, "ticket-1", T0)
    other = PARKING._replace(subject="stay:2")
    verdict = judge(storm, other, T0 + 60)
    assert (verdict.action, verdict.code, verdict.ticket_id) == ("attach", "grouped", "ticket-1")
    assert judge(storm, other, T0 + 61).action == "raise"
    assert judge(storm, other._replace(scenario="x"), T0).action == "raise"
    assert judge(storm, other._replace(camera_id="gate"), T0).action == "raise"


def test_cameras_of_a_group_share_tickets_but_not_their_own_troubles() -> None:
    storm = control(lambda camera: "yard" if camera in {"lane", "gate"} else "", group_window=60)
    storm.raised(PARKING, "ticket-1", T0)
    assert judge(storm, PARKING._replace(camera_id="gate"), T0 + 1).ticket_id == "ticket-1"
    assert judge(storm, PARKING._replace(camera_id="roof"), T0 + 1).action == "raise"
    health = AlarmKey("lane", HEALTH, "camera")
    storm.raised(health, "ticket-2", T0)
    assert judge(storm, health._replace(camera_id="gate"), T0 + 1).action == "raise"


def test_nothing_is_attached_to_a_disposed_ticket() -> None:
    storm = control(lambda _: "yard", group_window=60)
    storm.raised(PARKING, "ticket-1", T0)
    storm.disposed(PARKING, "ticket-1", T0)
    assert judge(storm, PARKING._replace(subject="stay:2"), T0 + 1).action == "raise"


def test_the_same_subject_is_quiet_after_a_disposal_unless_it_is_reopened() -> None:
    storm = control()
    storm.disposed(PARKING, "ticket-1", T0 + 60)
    verdict = judge(storm, PARKING, T0 + 59)
    assert (verdict.code, verdict.retry_t) == ("disposed_recently", T0 + 60)
    assert judge(storm, PARKING._replace(subject="stay:2"), T0 + 59).action == "raise"
    assert judge(storm, PARKING, T0 + 60).action == "raise"
    storm.disposed(PARKING, "ticket-1", T0 + 200)
    storm.reopened(PARKING)
    assert judge(storm, PARKING, T0 + 100).action == "raise"


def test_a_camera_in_trouble_inhibits_all_but_critical_alarms_and_its_own_health() -> None:
    storm = control()

    def unwell(camera_id: str) -> bool:
        return camera_id == "lane"

    verdict = storm.judge(PARKING, T0, critical=False, unwell=unwell)
    assert (verdict.action, verdict.code) == ("hold", "inhibited")
    assert verdict.retry_t > T0
    fire = FIRE._replace(camera_id="lane")
    assert storm.judge(fire, T0, critical=True, unwell=unwell).action == "raise"
    health = AlarmKey("lane", HEALTH, "camera")
    assert storm.judge(health, T0, critical=False, unwell=unwell).action == "raise"
    off = control(inhibit=False)
    assert off.judge(PARKING, T0, critical=False, unwell=unwell).action == "raise"


@pytest.mark.parametrize(
    ("shelf", "muted"),
    [
        (("", ""), True),
        (("lane", ""), True),
        (("", "illegal_parking"), True),
        (("lane", "illegal_parking"), True),
        (("gate", ""), False),
        (("", "fire"), False),
        (("gate", "illegal_parking"), False),
    ],
)
def test_a_shelf_mutes_what_it_names_until_its_time(shelf: tuple[str, str], muted: bool) -> None:
    storm = control()
    storm.shelve(Shelf(*shelf, T0 + 100, "li"))
    verdict = judge(storm, PARKING, T0 + 99)
    assert (verdict.code == "muted") is muted
    if muted:
        assert verdict.retry_t == T0 + 100
        assert "li" in verdict.reason
    assert judge(storm, PARKING, T0 + 100).action == "raise"


def test_muting_everything_leaves_the_cameras_own_troubles_audible() -> None:
    storm = control()
    storm.shelve(Shelf("", "", T0 + 100, "li"))
    health = AlarmKey("lane", HEALTH, "camera")
    assert judge(storm, health, T0).action == "raise"
    storm.shelve(Shelf("lane", HEALTH, T0 + 100, "li"))
    assert judge(storm, health, T0).code == "muted"


def test_windows_mute_in_local_time() -> None:
    settings = StormSettings(
        mutes=(MuteSettings(camera="lane", windows=(TimeWindow("mon-fri 07:00-09:00"),)),)
    )
    shanghai = ZoneInfo("Asia/Shanghai")
    storm = StormControl(settings, shanghai)

    def at(day: int, hour: int) -> str:
        t = datetime(2026, 5, day, hour, 30, tzinfo=shanghai).timestamp()
        return judge(storm, PARKING, t).code

    assert at(4, 7) == "muted"  # a Monday
    assert at(4, 9) == "raised"
    assert at(3, 7) == "raised"
    assert judge(storm, FIRE, datetime(2026, 5, 4, 0, tzinfo=UTC).timestamp()).code == "raised"


def test_a_mute_without_a_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="windows"):
        MuteSettings(camera="lane", windows=())


def test_a_restart_changes_nothing() -> None:
    storm = control(budget=2)
    judge(storm, PARKING, T0)
    judge(storm, PARKING, T0)
    storm.shelve(Shelf("roof", "", T0 + 100, "li"))
    storm.disposed(FIRE, "ticket-1", T0 + 50)
    again = control(budget=2)
    again.restore(json.loads(json.dumps(storm.state())))
    assert again.state() == storm.state()
    for key in (PARKING, FIRE, FIRE._replace(camera_id="roof")):
        assert judge(again, key, T0 + 10) == judge(storm, key, T0 + 10)
        assert judge(again, key, T0 + 10).action == "hold"
    assert again.shelves(T0) == storm.shelves(T0)
    assert again.shelves(T0 + 100) == []


def test_what_no_longer_matters_is_forgotten() -> None:
    storm = control(group_window=60)
    for n in range(100):
        key = AlarmKey(f"camera-{n}", "fire", "a")
        judge(storm, key, T0)
        storm.raised(key, "t", T0)
        storm.disposed(key, "t", T0 + 60)
        storm.shelve(Shelf(f"camera-{n}", "", T0 + 60, "li"))
    storm.expire(T0 + 3600)
    assert storm.state() == {"shelves": [], "quiet": [], "buckets": []}


def test_what_is_stored_with_every_ticket_stays_small_in_a_storm() -> None:
    storm = control(budget=4)
    for n in range(5000):
        judge(storm, AlarmKey(f"camera-{n}", "fire", "a"), T0)
    for _ in range(3):
        judge(storm, PARKING, T0)
    # Of five thousand buckets the one that a restart must not fill up.
    buckets = storm.state()["buckets"]
    assert [bucket[:2] for bucket in buckets] == [[PARKING.camera_id, PARKING.scenario]]  # type: ignore[index, union-attr]
