"""What labelled clips show: one CSV for a folder, or one YAML beside a clip.

A fault in a label concerns its clip alone: the clip is then reported and not scored, and the others go on.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from gridwatch.located_yaml import LocatedYaml, load_located
from pipeline.analyse.scenario import scenario_names
from pipeline.exceptions import ConfigError
from pipeline.observation import RelativeBox
from pipeline.units import Settings

__all__ = ["VEHICLE_STOPPED", "Event", "Kind", "Label", "LabelledClip", "find_clips"]

CSV_NAME = "labels.csv"
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts"}
    | {".webm", ".wmv"}
)
VEHICLE_STOPPED = "vehicle_stopped"
"""A vehicle that stands, rightly or not: only a zone and a dwell make it illegal parking."""

NONE = "none"
# Words of a label for what is one scenario's event.
SCENARIO_OF = {"fire": "fire", "flame": "fire", "smoke": "fire"}
COLUMNS = ("clip", "event", "start_s", "end_s")


class Kind(StrEnum):
    """How real a clip is; results of different kinds are never added up. Most telling first."""

    REAL = "real"
    DERIVED = "derived"
    GENERATED = "generated"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens in a clip.

    Attributes:
        scenario: Whose event it is, or `VEHICLE_STOPPED`.
        start_s: Seconds from the clip's first picture.
        end_s: The same.
        box: Where, as fractions of the picture; None where the label does not say.
        place: Line of the label.
    """

    scenario: str
    start_s: float
    end_s: float
    box: RelativeBox | None
    place: str


@dataclass(frozen=True, slots=True)
class Label:
    """All that is known of a clip.

    Attributes:
        events: In order of time; flame and smoke that overlap are one `fire`.
        kind: How real it is.
        group: Clips of one place or incident, which err together.
        conditions: Words such as ``night`` or ``rain``.
        camera: Settings as in cameras.yaml, the id of a camera there, or None.
        document: Where `camera` was read, so that an error in it can name its line.
    """

    events: tuple[Event, ...]
    kind: Kind
    group: str
    conditions: tuple[str, ...] = ()
    camera: Mapping[str, Any] | str | None = None
    document: LocatedYaml | None = None


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A clip and what is said of it.

    Attributes:
        name: Its path relative to its labels, with slashes.
        path: The file.
        label: None where there is none, or none that can be used.
        problems: Why it cannot be scored, one line each; empty when it can.
    """

    name: str
    path: Path
    label: Label | None
    problems: tuple[str, ...] = ()


def _check_box(box: RelativeBox) -> RelativeBox:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError("expected a box x1, y1, x2, y2 as ascending fractions of the picture")
    return box


class _YamlEvent(Settings):
    scenario: str
    start_s: float = Field(ge=0, allow_inf_nan=False)
    end_s: float = Field(allow_inf_nan=False)
    box: Annotated[RelativeBox, AfterValidator(_check_box)] | None = None

    @model_validator(mode="after")
    def _order(self) -> _YamlEvent:
        if self.end_s <= self.start_s:
            raise ValueError(
                f"expected end_s after start_s, found {self.start_s:g} to {self.end_s:g}"
            )
        return self


class _YamlLabel(Settings):
    """The file beside a clip; `seed` is the simulator's note and changes nothing."""

    clip: str | None = None
    simulated: bool = False
    kind: Kind = Kind.REAL
    group: str = ""
    conditions: tuple[str, ...] = ()
    events: tuple[_YamlEvent, ...] | None = None
    camera: dict[str, Any] | str | None = None
    seed: int | None = None


def find_clips(paths: Sequence[Path]) -> list[LabelledClip]:
    """The clips under `paths` with their labels, in order of name.

    A label is the YAML file beside the clip, or else its rows in the nearest ``labels.csv`` in the clip's folder or one
    above. A YAML file without ``events`` only adds to the rows (its camera settings, its conditions).

    Args:
        paths: Video files, and folders that are searched for video files.

    Raises:
        ConfigError: if a path does not exist, no clip is found, or a ``labels.csv`` as a whole cannot be read.
    """
    tables: dict[Path, _Table | None] = {}
    found: dict[Path, LabelledClip] = {}
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: found nothing, expected a video file or a folder of them")
        files = sorted(_videos(path)) if path.is_dir() else [path]
        folder = path if path.is_dir() else path.parent
        root = folder.resolve()
        for file in files:
            resolved = file.resolve()  # a link and its clip are one
            if resolved not in found:
                place = root / file.relative_to(folder)  # labels lie beside the link
                found[resolved] = _labelled(place, root, _table_for(place, tables))
        if path.is_dir():
            _add_absent(root, tables, found)
    if not found:
        listed = ", ".join(map(str, paths))
        raise ConfigError(f"{listed}: found no video file, expected at least one")
    clips = sorted(found.values(), key=lambda clip: (clip.name, str(clip.path)))
    names = [clip.name for clip in clips]
    return [
        clip
        if names.count(clip.name) == 1
        else LabelledClip(clip.path.as_posix(), clip.path, clip.label, clip.problems)
        for clip in clips
    ]


def _videos(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())


def _add_absent(
    root: Path, tables: Mapping[Path, _Table | None], found: dict[Path, LabelledClip]
) -> None:
    """Report what is labelled under `root` and is not there."""
    own = root / CSV_NAME
    table = tables[root] if root in tables else (_Table(own) if own.is_file() else None)
    for name, rows in table.rows.items() if table is not None else ():
        path = (root / name).resolve()
        if path not in found:
            problem = f"{rows.place}: clip: found no file {name}, expected the labelled clip"
            found[path] = LabelledClip(name, path, None, (problem,))


def _table_for(clip: Path, tables: dict[Path, _Table | None]) -> _Table | None:
    for folder in clip.parents:
        if folder not in tables:
            file = folder / CSV_NAME
            tables[folder] = _Table(file) if file.is_file() else None
        if (table := tables[folder]) is not None:
            return table
    return None


def _labelled(path: Path, root: Path, table: _Table | None) -> LabelledClip:
    name = path.relative_to(root).as_posix()
    rows: _Rows | None = None
    if table is not None:
        name = path.relative_to(table.file.parent).as_posix()
        rows = table.rows.get(name)
    sidecar = next(
        (s for s in (path.with_suffix(".yaml"), path.with_suffix(".yml")) if s.is_file()), None
    )
    try:
        beside = _read_yaml(sidecar, path) if sidecar is not None else None
    except ConfigError as error:
        return LabelledClip(name, path, None, error.problems)
    if rows is not None and rows.problems:
        return LabelledClip(name, path, None, tuple(rows.problems))
    if beside is not None and beside[0].events is not None:
        if rows is not None:
            problem = (
                f"{sidecar}: events: the clip is labelled in {rows.place}, too; expected one label"
            )
            return LabelledClip(name, path, None, (problem,))
        content, document = beside
        events = [
            Event(
                SCENARIO_OF.get(event.scenario, event.scenario),
                event.start_s,
                event.end_s,
                event.box,
                document.place(("events", index)).rpartition(": ")[0],
            )
            for index, event in enumerate(content.events or ())
        ]
        kind = Kind.SIMULATED if content.simulated else content.kind
        label = Label(
            _united(events),
            kind,
            content.group or name,
            content.conditions,
            content.camera,
            document,
        )
        return LabelledClip(name, path, label)
    if rows is None:
        problem = (
            f"{path}: no label: found neither {path.stem}.yaml beside it nor a row in a {CSV_NAME}"
        )
        return LabelledClip(name, path, None, (problem,))
    label = Label(_united(rows.events), rows.kind, rows.group or name, rows.conditions)
    if beside is not None:
        content, document = beside
        conditions = label.conditions + content.conditions
        label = Label(label.events, label.kind, label.group, conditions, content.camera, document)
    return LabelledClip(name, path, label)


def _united(events: Iterable[Event]) -> tuple[Event, ...]:
    """Events in order of time, with those of `fire` that overlap made one: flame and smoke are one event."""
    ordered = sorted(events, key=lambda event: (event.start_s, event.end_s, event.scenario))
    result: list[Event] = []
    burning: int | None = None  # index of the last fire
    for event in ordered:
        if event.scenario == "fire":
            if burning is not None and event.start_s <= result[burning].end_s:
                result[burning] = _union(result[burning], event)
                continue
            burning = len(result)
        result.append(event)
    return tuple(result)


def _union(a: Event, b: Event) -> Event:
    box: RelativeBox | None = None
    if a.box is not None and b.box is not None:
        box = (
            min(a.box[0], b.box[0]),
            min(a.box[1], b.box[1]),
            max(a.box[2], b.box[2]),
            max(a.box[3], b.box[3]),
        )
    return Event(a.scenario, a.start_s, max(a.end_s, b.end_s), box, a.place)


def _read_yaml(file: Path, clip: Path) -> tuple[_YamlLabel, LocatedYaml]:
    document = load_located(file)
    try:
        content = _YamlLabel.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(*(_explain(document, item) for item in error.errors())) from None
    if content.clip is not None and content.clip != clip.name:
        place = document.place(("clip",))
        raise ConfigError(
            f"{place}: found {content.clip}, expected the clip beside it, {clip.name}"
        )
    known = {*scenario_names(), *SCENARIO_OF, VEHICLE_STOPPED}
    for index, event in enumerate(content.events or ()):
        if event.scenario not in known:
            place = document.place(("events", index, "scenario"))
            raise ConfigError(
                f"{place}: found {event.scenario!r}, expected one of {', '.join(sorted(known))}"
            )
    return content, document


def _explain(document: LocatedYaml, item: Mapping[str, Any]) -> str:
    place = document.place(tuple(item["loc"]))
    if item["type"] == "extra_forbidden":
        known = _YamlEvent if len(item["loc"]) > 1 else _YamlLabel
        return f"{place}: unknown key; expected one of {', '.join(sorted(known.model_fields))}"
    if item["type"] == "missing":
        return f"{place}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    found = "" if "found" in message else f", found {item['input']!r}"
    return f"{place}: {message[0].lower()}{message[1:]}{found}"


class _Rows:
    """A clip's rows in a table."""

    def __init__(self, place: str, kind: Kind, group: str) -> None:
        self.place = place
        self.kind = kind
        self.group = group
        self.conditions: tuple[str, ...] = ()
        self.events: list[Event] = []
        self.problems: list[str] = []
        self.nothing = False


class _Table:
    """A ``labels.csv``: one row an event, or one row with event ``none`` for a clip without any.

    Raises:
        ConfigError: if the file cannot be read or lacks a column.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, _Rows] = {}
        known = {*scenario_names(), *SCENARIO_OF, VEHICLE_STOPPED, NONE}
        try:
            with file.open(encoding="utf-8-sig", newline="") as text:
                reader = csv.DictReader(text, strict=True)
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise ConfigError(
                        f"{file}:1: found no column {', '.join(missing)}, expected at least {', '.join(COLUMNS)}"
                    )
                for row in reader:
                    self._take(row, f"{file}:{reader.line_num}", known)
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start})") from error
        except csv.Error as error:
            raise ConfigError(f"{file}:{reader.line_num}: is not valid CSV: {error}") from error

    def _take(self, row: Mapping[str, str | None], place: str, known: set[str]) -> None:
        def cell(name: str) -> str:
            return (row.get(name) or "").strip()

        name = cell("clip")
        kind_word = cell("kind") or Kind.REAL.value
        kinds = [kind.value for kind in Kind]
        kind = Kind(kind_word) if kind_word in kinds else Kind.REAL
        rows = self.rows.setdefault(name, _Rows(place, kind, cell("group")))
        if kind_word not in kinds:
            rows.problems.append(
                f"{place}: kind: found {kind_word!r}, expected one of {', '.join(kinds)}"
            )
        if kind != rows.kind:
            rows.problems.append(
                f"{place}: kind: found {kind}, expected {rows.kind} as in {rows.place}"
            )
        conditions = [word.strip() for word in cell("conditions").split(";") if word.strip()]
        if cell("fixed_camera").lower() in ("n", "no", "false"):
            conditions.append("moving_camera")
        rows.conditions = tuple(dict.fromkeys((*rows.conditions, *conditions)))
        word = cell("event")
        if word not in known:
            rows.problems.append(
                f"{place}: event: found {word!r}, expected one of {', '.join(sorted(known))}"
            )
            return
        if word == NONE:
            rows.nothing = True
        else:
            try:
                start_s, end_s = (
                    _seconds(cell("start_s"), "start_s"),
                    _seconds(cell("end_s"), "end_s"),
                )
                if end_s <= start_s:
                    raise ValueError(
                        f"end_s: found {end_s:g}, expected more than start_s {start_s:g}"
                    )
                box = _csv_box(cell("box"))
            except ValueError as error:
                rows.problems.append(f"{place}: {error}")
                return
            rows.events.append(Event(SCENARIO_OF.get(word, word), start_s, end_s, box, place))
        if rows.nothing and rows.events:
            rows.problems.append(
                f"{place}: event: found both {NONE} and an event for {name}, expected one or the other"
            )


def _seconds(text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{column}: found {text!r}, expected seconds from the clip's start")
    return value


def _csv_box(text: str) -> RelativeBox | None:
    if not text:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
        return _check_box((x1, y1, x2, y2))
    except ValueError:
        raise ValueError(
            f"box: found {text!r}, expected x1,y1,x2,y2 as ascending fractions of the picture"
        ) from None
