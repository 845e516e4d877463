"""Who hears of a ticket: the grid tree, and the inboxes by severity and scenario.

Cameras belong to a micro-grid (30 to 100 households), micro-grids to a general grid (300 to 500), those to a total grid
(a community). A grid is named by its path from the top: ``total/general/micro``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from alerts.tickets import Ticket
from alerts.topics import Topics
from pipeline.units import Settings

__all__ = ["Dispatch", "DispatchSettings", "Grid"]

DEPARTMENTS = (
    "departments"  # beside the total grids, so that a responder subscribes to it in the same way
)
LEVELS = 3  # total, general, micro


def _check_level(name: str) -> str:
    if not name or any(sign in name for sign in "/+#\0") or name.startswith("$"):
        raise ValueError(f"expected a name without '/', '+' and '#', found {name!r}")
    return name


Level = Annotated[str, AfterValidator(_check_level)]


class Grid(Settings):
    """One grid and those below it.

    Attributes:
        name: For people.
        households: How many live there; for people.
        grids: The grids that it consists of, by the last level of their path.
    """

    name: str = ""
    households: int | None = Field(default=None, ge=0)
    grids: dict[Level, Grid] = Field(default={})


class DispatchSettings(Settings):
    """Who hears of what.

    Attributes:
        grids: The total grids by id, each with those below it; empty where no tree is kept.
        departments: Departments that hear at once of a scenario's tickets, with every grid above the camera.
    """

    grids: dict[Level, Grid] = Field(default={})
    departments: dict[str, tuple[Level, ...]] = Field(default={"fire": ("fire",)})

    @field_validator("grids")
    @classmethod
    def _check_tree(cls, grids: dict[str, Grid]) -> dict[str, Grid]:
        if DEPARTMENTS in grids:
            raise ValueError(f"expected another name than {DEPARTMENTS!r}, which is kept for them")
        for path in _paths(grids):
            if path.count("/") >= LEVELS:
                raise ValueError(f"expected at most {LEVELS} levels of grids, found {path!r}")
        return grids

    def paths(self) -> list[str]:
        """Every grid of the tree, each before those below it."""
        return list(_paths(self.grids))

    def problem(self, grid: str) -> str | None:
        """What is wrong with a camera's grid, in words; None if nothing is."""
        if not grid:
            return None
        try:
            for level in grid.split("/"):
                _check_level(level)
        except ValueError:  # it becomes part of a topic: better said now than at the first alarm
            return (
                f"found {grid!r}, expected a path of names without '+' and '#', such as town/12/3"
            )
        if not self.grids:
            return None
        known = self.paths()
        if grid in known:
            return None
        return f"found {grid!r}, expected one of {', '.join(known)}"


class Dispatch:
    """Chooses the inboxes of a ticket.

    Args:
        settings: The tree and the departments.
        topics: Of the site.
    """

    def __init__(self, settings: DispatchSettings, topics: Topics) -> None:
        self._settings = settings
        self._topics = topics

    def inboxes(self, ticket: Ticket) -> list[str]:
        """Paths of the grids and departments that hear of a ticket, the camera's own grid first.

        A matter of a department, and a critical one, is heard of by all grids above the camera at once; any other by
        its own grid, and by those that it was called up to.
        """
        departments = self._settings.departments.get(ticket.scenario, ())
        above = self.above(ticket.grid)
        paths = [ticket.grid] if ticket.grid else []
        if departments or ticket.severity == "critical":
            paths += above
        paths += [called.grid for called in ticket.warn.escalations]
        paths += [f"{DEPARTMENTS}/{name}" for name in departments]
        return list(dict.fromkeys(paths))

    def topics_of(self, ticket: Ticket) -> list[str]:
        """The full inbox topics of a ticket."""
        return [self._topics.inbox(path) for path in self.inboxes(ticket)]

    @staticmethod
    def above(grid: str) -> list[str]:
        """The grids above one, the nearest first: ``a/b/c`` gives ``a/b`` and ``a``."""
        levels = grid.split("/")
        return ["/".join(levels[:end]) for end in range(len(levels) - 1, 0, -1)]


def _paths(grids: Mapping[str, Grid], prefix: str = "") -> Iterator[str]:
    for name, grid in grids.items():
        yield f"{prefix}{name}"
        yield from _paths(grid.grids, f"{prefix}{name}/")
