"""What a console is told at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from alerts.connection import BrokerSettings
from alerts.dispatch import Grid, Names
from gridwatch.config import Config

__all__ = ["ConsoleSettings", "Language", "grid_names"]

Language = Literal["zh", "en"]


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """One console.

    Attributes:
        site: Id of the site, or ``+`` for every site of the broker.
        folder: Of the console's own state.
        broker: Where the feed comes from.
        database: SQLAlchemy URL; empty for SQLite in `folder`.
        timezone: In which times are shown.
        language: Of people whose browser asks for neither zh nor en.
        title: The site's name for people.
        share: Group of consoles that share the load; empty for a console of its own.
        config_file: The cameras.yaml, where there is one: the zone editor writes it.
        config: The same, read.
        grid_names: Names for people by grid path.
        secure: Whether cookies are for HTTPS alone; None looks at each request.
    """

    site: str
    folder: Path
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    database: str = ""
    timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Asia/Shanghai"))
    language: Language = "zh"
    title: str = ""
    share: str = ""
    config_file: Path | None = None
    config: Config | None = None
    grid_names: Mapping[str, Names] = field(default_factory=dict)
    secure: bool | None = None

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database or f"sqlite:///{self.folder / 'console.sqlite'}"

    def showing(self, config: Config) -> ConsoleSettings:
        """The same console with this content of its cameras.yaml to show; site, broker and database stay."""
        return replace(
            self,
            config=config,
            timezone=config.timezone,
            language=config.site.language,
            title=config.site.name or config.site.id,
            grid_names=grid_names(config.dispatch.grids),
        )

    def grid_name(self, path: str, level: str, language: Language) -> str:
        """The name of one grid; `level` where it has none."""
        names = self.grid_names.get(path)
        return names.say(language, level) if names else level


def grid_names(grids: Mapping[str, Grid]) -> dict[str, Names]:
    """The names of a grid tree by path."""
    return dict(_names(grids, ""))


def _names(grids: Mapping[str, Grid], prefix: str) -> Iterator[tuple[str, Names]]:
    for level, grid in grids.items():
        if grid.name.say("zh"):
            yield f"{prefix}{level}", grid.name
        yield from _names(grid.grids, f"{prefix}{level}/")
