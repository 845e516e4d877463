"""Small matters stay in the micro-grid; fire is heard of everywhere at once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from alerts.dispatch import Dispatch, DispatchSettings
from alerts.tickets import (
    Analysed,
    CameraRef,
    Captured,
    Escalation,
    Ticket,
    Title,
    Warned,
    instant,
)
from alerts.topics import Topics
from pipeline.analyse.scenario import Severity

TREE = {
    "jinjiang": {
        "name": "锦江社区",
        "grids": {"12": {"name": "第十二网格", "grids": {"3": {"households": 60}, "4": {}}}},
    }
}
NOW = instant(1_800_000_000)


def ticket(scenario: str, severity: Severity = "major", grid: str = "jinjiang/12/3") -> Ticket:
    return Ticket(
        id="T1",
        version=1,
        site="s",
        host="h",
        camera=CameraRef(id="c", name="c"),
        grid=grid,
        scenario=scenario,
        subject="view",
        severity=severity,
        title=Title(zh="x", en="x"),
        capture=Captured(time=NOW),
        analyse=Analysed(confidence=0.9, since=NOW),
        warn=Warned(raised=NOW, rule="", published=NOW, age_s=0.0),
        created=NOW,
        updated=NOW,
    )


def dispatch(**settings: object) -> Dispatch:
    return Dispatch(DispatchSettings.model_validate({"grids": TREE, **settings}), Topics("s"))


ABOVE = ["jinjiang/12", "jinjiang"]


@pytest.mark.parametrize(
    ("scenario", "severity", "expected"),
    [
        pytest.param("illegal_parking", "minor", [], id="small"),
        pytest.param("ebike_in_elevator", "major", [], id="major"),
        pytest.param("river_discoloration", "critical", ABOVE, id="critical"),
        pytest.param("fire", "major", [*ABOVE, "departments/fire"], id="fire"),
        pytest.param("fire", "critical", [*ABOVE, "departments/fire"], id="critical fire"),
    ],
)
def test_inboxes(scenario: str, severity: Severity, expected: list[str]) -> None:
    found = dispatch().inboxes(ticket(scenario, severity))
    assert found == ["jinjiang/12/3", *expected]


def test_inbox_topics() -> None:
    assert dispatch().topics_of(ticket("fire"))[-1] == "gridwatch/s/grids/departments/fire/inbox"


def test_a_called_up_ticket_stays_in_the_inboxes_below() -> None:
    small = ticket("illegal_parking")
    called = Escalation(grid="jinjiang/12", time=NOW)
    raised = small.model_copy(
        update={"warn": small.warn.model_copy(update={"escalations": (called,)})}
    )
    assert dispatch().inboxes(raised) == ["jinjiang/12/3", "jinjiang/12"]


def test_a_camera_without_grid_reaches_the_department_all_the_same() -> None:
    assert dispatch().inboxes(ticket("fire", grid="")) == ["departments/fire"]
    assert dispatch().inboxes(ticket("illegal_parking", grid="")) == []


def test_departments_can_be_chosen() -> None:
    own = dispatch(departments={"river_discoloration": ["water", "environment"]})
    assert own.inboxes(ticket("river_discoloration"))[-2:] == [
        "departments/water",
        "departments/environment",
    ]
    assert own.inboxes(ticket("fire")) == ["jinjiang/12/3"]


def test_the_tree_knows_its_paths_and_what_is_not_in_it() -> None:
    settings = DispatchSettings.model_validate({"grids": TREE})
    paths = ["jinjiang", "jinjiang/12", "jinjiang/12/3", "jinjiang/12/4"]
    assert settings.paths() == paths
    assert settings.problem("jinjiang/12/3") is None
    assert settings.problem("") is None
    assert settings.problem("jinjiang/9") == (
        f"found 'jinjiang/9', expected one of {', '.join(paths)}"
    )
    assert DispatchSettings().problem("anything/goes") is None


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a/b": {}}, "expected a name without"),
        ({"a": {"grids": {"#": {}}}}, "expected a name without"),
        ({"departments": {}}, "kept for them"),
        ({"a": {"grids": {"b": {"grids": {"c": {"grids": {"d": {}}}}}}}}, "at most 3 levels"),
        ({"a": {"grid": {}}}, "Extra inputs"),
    ],
)
def test_a_wrong_tree_is_refused(tree: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DispatchSettings.model_validate({"grids": tree})
