"""A small district's day through real parts: nothing lost, nothing doubled, every rung once, through a restart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.district import Plan, Size, make_plan, run_day, run_paced
from benchmarks.soak import mosquitto

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None,
        reason="mosquitto is not installed: apt-get install mosquitto",
    ),
]

SMALL = Size(total=3, general=13, micro=174, per_day=30, burst=90, thumbnail=400)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(SMALL)


def test_the_districts_size_is_the_districts() -> None:
    plan = make_plan(Size())
    paths = plan.settings.paths()
    levels = [sum(path.count("/") == n for path in paths) for n in range(3)]
    assert levels == [148, 638, 8667]
    assert len(plan.alarms) == 329 + 10_000
    assert round(329 * 365, -3) == 120_000
    assert {plan.settings.problem(grid) for grid in plan.cameras.values()} == {None}
    assert make_plan(Size()).alarms == plan.alarms


def test_a_day_with_a_burst_and_a_restart(plan: Plan, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as (port, _):
        day = run_day(plan, tmp_path / "tickets.sqlite", port, drain_s=60)
        assert day.problems == []
        assert day.alarms == 120
        assert day.rungs > 50
        assert day.calls > 50
        assert day.versions > 2 * day.alarms
        paced = run_paced(plan, tmp_path / "tickets.sqlite", port, 20, 1)
        assert paced.tickets == 20
        assert 0 <= paced.heard_p50_s <= paced.heard_p95_s <= paced.heard_max_s


def test_what_is_lost_or_not_called_is_noticed(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself: a host that forgets to look at its ladders, and a broker's message that never came."""
    from alerts.desk import TicketDesk
    from benchmarks import district

    monkeypatch.setattr(TicketDesk, "climb", lambda _self, _t: [])
    take = district.Subscriber._take

    def deaf(self: district.Subscriber, client: object, data: object, message: object) -> None:
        if not getattr(message, "topic", "").endswith("/events/fire/warned"):
            take(self, client, data, message)  # type: ignore[arg-type]

    monkeypatch.setattr(district.Subscriber, "_take", deaf)
    with mosquitto(tmp_path / "broker") as (port, _):
        day = run_day(plan, tmp_path / "tickets.sqlite", port, drain_s=60)
    assert any("not called up as their ladders say" in problem for problem in day.problems)
    assert any("versions were not heard of" in problem for problem in day.problems)
