"""Arguments and options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gridwatch.parent import WITH_PARENT

__all__ = [
    "BrokerOption",
    "ConfigArgument",
    "ConfigOption",
    "JsonOption",
    "Language",
    "LanguageOption",
    "PhotoOption",
    "RateOption",
    "SiteOption",
    "TargetOption",
    "UserOption",
    "WindowOption",
    "WithParentOption",
]


class Language(StrEnum):
    """Languages that operators read."""

    ZH = "zh"
    EN = "en"


ConfigArgument = Annotated[
    Path, typer.Argument(help="The configuration.", show_default=False, metavar="CAMERAS_YAML")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Take site and broker from this cameras.yaml."),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        "-b",
        metavar="HOST[:PORT]",
        help="The broker, when no --config is given; GRIDWATCH_PASSWORD holds a password.",
    ),
]
SiteOption = Annotated[
    str | None, typer.Option("--site", help="The site's id, when no --config is given.")
]
UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", help="Broker user; commands are sent in this name."),
]
LanguageOption = Annotated[
    Language | None, typer.Option("--lang", "-l", help="Language of titles; the site's by default.")
]
PhotoOption = Annotated[
    list[Path] | None,
    typer.Option("--photo", metavar="FILE", help="A JPEG of at most 256 KB; up to three."),
]
TargetOption = Annotated[
    float, typer.Option(help="Share of true alarms that is asked for.", min=0.0, max=0.9999)
]
WindowOption = Annotated[
    float,
    typer.Option(help="Seconds after an event's end in which its alarm may come.", min=0.0),
]
RateOption = Annotated[
    float | None,
    typer.Option(help="Events per camera-hour on site: project the accuracy to it.", min=0.0),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
]
WithParentOption = Annotated[
    bool,
    typer.Option(WITH_PARENT, help="End when the standard input ends, for programs that start us."),
]
