"""Small matters stay in the micro-grid; fire is heard of everywhere at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from alerts.dispatch import Dispatch, DispatchSettings, Names, Person
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
    return Dispatch(DispatchSettings.model_validate({"grids": TREE, **settings}))


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
    assert own.inboxes(ticket("fire")) == ["jinjiang/12/3", *ABOVE]


def test_a_ladder_of_ones_own_says_who_hears_at_once() -> None:
    rungs = [{"to": ["micro"]}, {"to": ["departments/chengguan"], "severity": "major"}]
    own = dispatch(
        departments={"illegal_parking": ["chengguan"]},
        ladders={"illegal_parking": {"unacknowledged": rungs}},
    )
    assert own.inboxes(ticket("illegal_parking", "minor")) == ["jinjiang/12/3"]
    assert own.inboxes(ticket("illegal_parking")) == ["jinjiang/12/3", "departments/chengguan"]


PEOPLE = [
    {"id": "wang", "name": {"zh": "王敏", "en": "Wang Min"}, "grids": ["jinjiang/12/3"]},
    {"id": "li", "roles": ["property", "admin"], "grids": ["jinjiang/12"]},
    {"id": "root", "roles": ["admin"]},
    {"id": "zhao", "roles": ["fire"], "grids": ["jinjiang"]},
    {"id": "chen", "roles": ["fire"], "grids": ["beiyuan"]},
]


@pytest.mark.parametrize(
    ("inbox", "roles", "expected"),
    [
        pytest.param("jinjiang/12/3", (), ["wang"], id="who serves the grid"),
        pytest.param("jinjiang/12/4", (), ["li"], id="nobody there: the next above"),
        pytest.param("jinjiang/12", (), ["li"], id="general"),
        pytest.param("jinjiang", (), [], id="an admin and the fire brigade are not the total grid"),
        pytest.param("jinjiang/12/3", ("property",), ["li"], id="by role"),
        pytest.param("jinjiang/12/3", ("admin",), ["li"], id="the nearest of the role"),
        pytest.param("jinjiang", ("admin",), ["root"], id="of the whole site"),
        pytest.param("departments/fire", (), ["zhao"], id="members who serve the ticket's grid"),
        pytest.param("departments/water", (), [], id="an empty department"),
    ],
)
def test_people(inbox: str, roles: tuple[str, ...], expected: list[str]) -> None:
    own = dispatch(people=PEOPLE)
    assert [p.id for p in own.people(ticket("fire"), inbox, roles)] == expected


def test_names_have_two_languages_or_one_text_for_both() -> None:
    assert Names.model_validate("锦江").say("en") == "锦江"
    assert Names(zh="锦江", en="Jinjiang").say("en") == "Jinjiang"
    assert Names(zh="锦江").say("en", "x") == "锦江"
    assert Names().say("zh", "jinjiang") == "jinjiang"


def test_what_does_not_fit_together_is_named_by_its_place() -> None:
    people = [
        {"id": "wang", "grids": ["jinjiang/12/33"]},
        {"id": "wang"},
    ]
    rungs = [{"to": ["departments/fires"]}]
    settings = DispatchSettings.model_validate(
        {
            "grids": TREE,
            "people": people,
            "ladders": {"fire": {"unacknowledged": rungs}},
            "offices": {"police": {"name": "警务"}},
        }
    )
    found = dict(settings.problems())
    assert set(found) == {
        ("people", 0, "grids", 0),
        ("people", 1, "id"),
        ("ladders", "fire", "unacknowledged", 0, "to"),
        ("offices", "police"),
    }
    assert found["people", 1, "id"] == "'wang' is taken by people[0]"
    assert "expected one of fire" in found["offices", "police"]


def test_in_a_large_tree_an_unknown_grid_is_answered_with_the_nearest() -> None:
    grids: dict[str, Any] = {
        f"t{n}": {"grids": {"g": {"grids": {f"m{k}": {} for k in range(58)}}}} for n in range(148)
    }
    settings = DispatchSettings.model_validate({"grids": grids})
    assert len(settings.paths()) == 148 * 60
    problem = settings.problem("t7/g/m99")
    assert problem is not None
    assert "one of the 8880 grids of the tree; did you mean 't7/g/m" in problem


def test_contacts_are_no_part_of_what_is_printed() -> None:
    person = Person.model_validate(
        {"id": "w", "contacts": ["json://u:secret@h/", {"url": "x://y"}]}
    )
    assert "secret" not in repr(person)
    assert [contact.get_secret_value() for contact in person.contacts][1] == "x://y"


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
