"""Who hears of a ticket: the grid tree, its people, the departments, and the inboxes by scenario and severity.

Cameras belong to a micro-grid (30 to 100 households), micro-grids to a general grid (300 to 500), those to a total grid
(a community). A grid is named by its path from the top: ``total/general/micro``.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from alerts.calls import Call, CallReason
from alerts.escalation import DEFAULT_LADDERS, Ladder, Rung, at_once, targets
from alerts.tickets import Ticket
from pipeline.units import Duration, Settings, TimeWindow

__all__ = [
    "CallSettings",
    "Dispatch",
    "DispatchSettings",
    "EscalationSettings",
    "Grid",
    "Names",
    "Office",
    "Person",
]

DEPARTMENTS = (
    "departments"  # beside the total grids, so that a responder subscribes to it in the same way
)
LEVELS = 3  # total, general, micro
ADMIN = "admin"  # of the system; called by a rung that names the role
LISTED = 12  # a longer list of what was expected helps nobody


def _check_level(name: str) -> str:
    if not name or any(sign in name for sign in "/+#\0") or name.startswith("$"):
        raise ValueError(f"expected a name without '/', '+' and '#', found {name!r}")
    return name


Level = Annotated[str, AfterValidator(_check_level)]


class Names(Settings):
    """A name for people; one text serves both languages.

    Attributes:
        zh: In Chinese.
        en: In English.
    """

    zh: str = ""
    en: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_text(cls, value: object) -> object:
        return {"zh": value, "en": value} if isinstance(value, str) else value

    def say(self, language: str, otherwise: str = "") -> str:
        """In a language; the other one's, or `otherwise`, where it has none."""
        first, second = (self.en, self.zh) if language == "en" else (self.zh, self.en)
        return first or second or otherwise


class Grid(Settings):
    """One grid and those below it.

    Attributes:
        name: For people; a text, or one for each of `zh` and `en`.
        households: How many live there; for people.
        lat: Latitude of its middle in degrees, for maps.
        lon: Longitude of its middle in degrees.
        grids: The grids that it consists of, by the last level of their path.
    """

    name: Names = Names()
    households: int | None = Field(default=None, ge=0)
    lat: float | None = Field(default=None, ge=-90, le=90)
    lon: float | None = Field(default=None, ge=-180, le=180)
    grids: dict[Level, Grid] = Field(default={})


def _contact(value: object) -> object:
    # {url: ...} is what `url_file:` becomes when it has been read.
    return value["url"] if isinstance(value, dict) and set(value) == {"url"} else value


class Person(Settings):
    """Somebody who is called.

    Attributes:
        id: As in `dispatch` commands and in records.
        name: For people; a text, or one for each of `zh` and `en`.
        roles: Such as `grid_member`, `property`, `admin`; the name of a department makes a member of it.
        grids: Paths of the grids that the person serves, with what is below them where that has nobody of its own.
            Empty for the whole site.
        contacts: Apprise URLs, tried in this order until one takes the message; write `${VAR}`, or `url_file:` with the
            name of a file that holds it.
        language: Of the messages.
        quiet: Hours in which only critical tickets call; others wait until they are over.
    """

    id: Level = Field(max_length=64)
    name: Names = Names()
    roles: tuple[Level, ...] = ()
    grids: tuple[str, ...] = ()
    contacts: tuple[Annotated[SecretStr, BeforeValidator(_contact)], ...] = ()
    language: Literal["zh", "en"] = "zh"
    quiet: tuple[TimeWindow, ...] = ()

    def is_quiet(self, moment: datetime) -> bool:
        """Whether the local `moment` lies in the person's quiet hours."""
        return any(window.contains(moment) for window in self.quiet)


class Office(Settings):
    """A department.

    Attributes:
        name: For people; a text, or one for each of `zh` and `en`.
        hours: When it is open; outside of them only critical tickets call its people. Empty for always.
    """

    name: Names = Names()
    hours: tuple[TimeWindow, ...] = ()

    def is_open(self, moment: datetime) -> bool:
        """Whether it is open at the local `moment`."""
        return not self.hours or any(window.contains(moment) for window in self.hours)


class EscalationSettings(Settings):
    """Where ladders are climbed. Each ticket has one place: by default the host that raised it.

    Attributes:
        run: Whether this host climbs the ladders of its tickets. False where another program calls people.
    """

    run: bool = True


class CallSettings(Settings):
    """Messages to people beside MQTT. They need the extra `notify`.

    Attributes:
        group: A person gets one message for what comes from one grid within this time.
        give_up: A call that could not be delivered for so long is given up, and its ticket's history says so.
        console_url: Address of the operators' page; a message then ends with a link to its ticket.
    """

    group: Annotated[Duration, Field(gt=0)] = 60.0
    give_up: Annotated[Duration, Field(gt=0)] = 86400.0
    console_url: str = Field(default="", pattern=r"^(https?://[^\s?#]+)?$")


class DispatchSettings(Settings):
    """Who hears of what, and who is called.

    Attributes:
        grids_file: YAML file with the keys `grids`, `people`, `departments`, `offices` and `ladders`, which then do not
            stand here.
        grids: The total grids by id, each with those below it; empty where no tree is kept.
        people: Who is called.
        departments: Departments by scenario. Ladders say when they are called.
        offices: Departments by name: what people call them, and when they are open.
        ladders: By scenario, or `default` for those without one; in place of the built-in ladder of that name.
        escalation: Where ladders are climbed.
        calls: Messages to people beside MQTT.
    """

    grids_file: str = ""
    grids: dict[Level, Grid] = Field(default={})
    people: tuple[Person, ...] = ()
    departments: dict[str, tuple[Level, ...]] = Field(default={"fire": ("fire",)})
    offices: dict[Level, Office] = Field(default={})
    ladders: dict[str, Ladder] = Field(default={})
    escalation: EscalationSettings = EscalationSettings()
    calls: CallSettings = CallSettings()

    @field_validator("grids")
    @classmethod
    def _check_tree(cls, grids: dict[str, Grid]) -> dict[str, Grid]:
        if DEPARTMENTS in grids:
            raise ValueError(f"expected another name than {DEPARTMENTS!r}, which is kept for them")
        for path in _paths(grids):
            if path.count("/") >= LEVELS:
                raise ValueError(f"expected at most {LEVELS} levels of grids, found {path!r}")
        return grids

    @cached_property
    def _known(self) -> dict[str, Grid]:
        return dict(_walk(self.grids))

    def paths(self) -> list[str]:
        """Every grid of the tree, each before those below it."""
        return list(self._known)

    def grid(self, path: str) -> Grid | None:
        """The grid at a path; None if it is not in the tree."""
        return self._known.get(path)

    def ladder(self, scenario: str) -> Ladder:
        """A scenario's ladder: its own, the built-in one of its name, or the default."""
        for name in (scenario, "default"):
            if (found := self.ladders.get(name) or DEFAULT_LADDERS.get(name)) is not None:
                return found
        raise AssertionError("there is a built-in default")

    def problem(self, grid: str) -> str | None:
        """What is wrong with a camera's or a ticket's grid, in words; None if nothing is."""
        if not grid:
            return None
        try:
            for level in grid.split("/"):
                _check_level(level)
        except ValueError:  # it becomes part of a topic: better said now than at the first alarm
            return (
                f"found {grid!r}, expected a path of names without '+' and '#', such as town/12/3"
            )
        if not self.grids or grid in self._known:
            return None
        if len(self._known) <= LISTED:
            return f"found {grid!r}, expected one of {', '.join(self._known)}"
        close = difflib.get_close_matches(grid, self._relatives(grid), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"found {grid!r}, expected one of the {len(self._known)} grids of the tree{hint}"

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What does not fit together, as (path of keys and indices, in words)."""
        seen: dict[str, int] = {}
        for index, person in enumerate(self.people):
            if person.id in seen:
                yield (
                    ("people", index, "id"),
                    f"{person.id!r} is taken by people[{seen[person.id]}]",
                )
            seen.setdefault(person.id, index)
            for at, grid in enumerate(person.grids):
                if (problem := self.problem(grid)) is not None:
                    yield ("people", index, "grids", at), problem
        known = self.department_names()
        for scenario, ladder in self.ladders.items():
            for part in ("unacknowledged", "undisposed"):
                for at, rung in enumerate(getattr(ladder, part)):
                    for target in rung.to:
                        name = target.removeprefix(f"{DEPARTMENTS}/")
                        if name != target and name not in known:
                            yield (
                                ("ladders", scenario, part, at, "to"),
                                f"there is no department {name!r}{_one_of(known)}",
                            )
        for name in self.offices:
            if name not in known:
                yield ("offices", name), f"no scenario has this department{_one_of(known)}"

    def department_names(self) -> list[str]:
        """Every department that a scenario has."""
        return list(dict.fromkeys(name for names in self.departments.values() for name in names))

    def _relatives(self, grid: str) -> list[str]:
        """Paths near an unknown one, for of 9,000 only some are worth comparing."""
        above = grid
        while above and above not in self._known:
            above = above.rpartition("/")[0]
        below = self._known[above].grids if above else self.grids
        return [f"{above}/{name}" if above else name for name in below]


class Dispatch:
    """Chooses the inboxes of a ticket and the people who are called.

    Args:
        settings: The tree, the people, the departments and the ladders.
    """

    def __init__(self, settings: DispatchSettings) -> None:
        self.settings = settings
        self._by_id = {person.id: person for person in settings.people}
        offices = set(settings.department_names())
        self._members: defaultdict[str, list[Person]] = defaultdict(list)
        self._at: defaultdict[str, list[Person]] = defaultdict(list)
        for person in settings.people:
            for role in person.roles:
                if role in offices:
                    self._members[role].append(person)
            for grid in person.grids or ("",):
                self._at[grid].append(person)
        self._offices = offices

    def ladder(self, ticket: Ticket) -> Ladder:
        """The ladder of the ticket's scenario."""
        return self.settings.ladder(ticket.scenario)

    def inboxes(self, ticket: Ticket) -> list[str]:
        """Paths of the grids and departments that hear of a ticket, its own grid first.

        These are its own grid, those that its ladder names at once for its severity, and those it was called up to.
        """
        paths = [ticket.grid] if ticket.grid else []
        paths += self.first(ticket)
        paths += [called.grid for called in ticket.warn.escalations]
        return list(dict.fromkeys(paths))

    def first(self, ticket: Ticket) -> list[str]:
        """Inboxes that are called at once when the ticket begins to wait for somebody."""
        return self.targets(ticket, at_once(self.ladder(ticket), ticket.severity))

    def targets(self, ticket: Ticket, rungs: Iterable[Rung]) -> list[str]:
        """Inboxes that rungs call for a ticket."""
        departments = self.settings.departments.get(ticket.scenario, ())
        return targets(rungs, ticket.grid, departments)

    def people(self, ticket: Ticket, inbox: str, roles: Sequence[str] = ()) -> list[Person]:
        """Who is called when an inbox is, in the order of the settings.

        Of a department: its members who serve the ticket's grid. Of a grid: who serves that grid itself; where nobody
        does, who serves the nearest one above it; members of departments and admins only if `roles` names theirs.

        Args:
            ticket: The matter.
            inbox: A grid's path or ``departments/{name}``.
            roles: Only people with one of these, of a grid.
        """
        if inbox.startswith(f"{DEPARTMENTS}/"):
            name = inbox.removeprefix(f"{DEPARTMENTS}/")
            return [p for p in self._members[name] if _serves(p, ticket.grid)]
        for path in (inbox, *self.above(inbox), ""):
            found = [p for p in self._at.get(path, ()) if self._has_role(p, roles)]
            if found:
                return found
        return []

    def calls(
        self, ticket: Ticket, rungs: Iterable[Rung], reason: CallReason, t: float
    ) -> list[Call]:
        """Calls that rungs cause at `t`: one for each person who has a contact."""
        made: dict[str, Call] = {}
        for rung in rungs:
            for inbox in self.targets(ticket, [rung]):
                for person in self.people(ticket, inbox, rung.roles):
                    if person.contacts and person.id not in made:
                        made[person.id] = Call.of(
                            person.id, inbox, ticket.id, ticket.version, reason, ticket.severity, t
                        )
        return list(made.values())

    def calls_to(self, ticket: Ticket, to: str | None, t: float) -> list[Call]:
        """The call to whom a ticket was dispatched at `t`, if that is the id of a person with a contact."""
        person = self._by_id.get(to or "")
        if person is None or not person.contacts:
            return []
        return [
            Call.of(
                person.id, ticket.grid, ticket.id, ticket.version, "dispatched", ticket.severity, t
            )
        ]

    def person(self, name: str) -> Person | None:
        """The person of this id."""
        return self._by_id.get(name)

    def office(self, inbox: str) -> Office | None:
        """The department of an inbox, if it is one's and more is known of it."""
        return self.settings.offices.get(inbox.removeprefix(f"{DEPARTMENTS}/"))

    @staticmethod
    def above(grid: str) -> list[str]:
        """The grids above one, the nearest first: ``a/b/c`` gives ``a/b`` and ``a``."""
        levels = grid.split("/")
        return ["/".join(levels[:end]) for end in range(len(levels) - 1, 0, -1)]

    def _has_role(self, person: Person, roles: Sequence[str]) -> bool:
        if roles:
            return any(role in roles for role in person.roles)
        # An admin who is nothing else, and who is of a department alone, is called as such.
        return not person.roles or any(
            role != ADMIN and role not in self._offices for role in person.roles
        )


def _one_of(known: Sequence[str]) -> str:
    return f"; expected one of {', '.join(known) or 'none'}"


def _serves(person: Person, grid: str) -> bool:
    return not person.grids or any(
        grid == own or grid.startswith(f"{own}/") for own in person.grids
    )


def _walk(grids: Mapping[str, Grid], prefix: str = "") -> Iterator[tuple[str, Grid]]:
    for name, grid in grids.items():
        yield f"{prefix}{name}", grid
        yield from _walk(grid.grids, f"{prefix}{name}/")


def _paths(grids: Mapping[str, Grid]) -> Iterator[str]:
    return (path for path, _ in _walk(grids))
