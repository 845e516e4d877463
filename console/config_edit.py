"""Redraws the polygons of one camera in cameras.yaml and leaves every other byte of the file as it was.

The parser says where each value stands; what changes is written there, as flow style on one line, and nothing else is
touched: a library that dumps the whole document moves comments about. What comes out is read again like any
configuration: nothing is written that `gridwatch.config` would refuse, that is not what was asked for, that changes
another camera too, or that somebody else has changed meanwhile.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import threading
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import BaseModel, Field

from alerts.privacy import PrivacySettings
from gridwatch.config import CameraSettings, Config
from gridwatch.located_yaml import YamlPath
from gridwatch.reload import Revision, read_revision
from pipeline.analyse.scenario import load_scenario
from pipeline.exceptions import ConfigError, StaleConfigError
from pipeline.units import Polygon, Settings

__all__ = ["PRIVACY", "Draft", "Region", "RegionField", "Shape", "draft", "fields_of", "regions_of"]

Points: TypeAlias = tuple[tuple[float, float], ...]
Shape = Literal["one", "named", "list"]
"""How a key holds polygons: a polygon, a mapping of names to polygons, or a list of them."""

PRIVACY = "privacy"  # stands for a scenario's name where the camera's masks are meant
DECIMALS = 4  # a fifth of a pixel at 1920 px
BACKUPS = 10
_WRITING = threading.Lock()
_POLYGON_CHECK = typing.get_args(Polygon)[1]


@dataclass(frozen=True, slots=True)
class RegionField:
    """A key of a camera that holds polygons.

    Attributes:
        scenario: Whose parameter it is; `PRIVACY` for the camera's masks.
        name: The key.
        shape: How it holds them.
    """

    scenario: str
    name: str
    shape: Shape


class Region(BaseModel):
    """One polygon of a camera.

    Attributes:
        scenario: Whose; `PRIVACY` for a mask.
        field: The key, such as ``cabin`` or ``zones``.
        name: Under ``zones`` and the like; empty elsewhere.
        points: Of x and y as fractions of the picture.
    """

    scenario: Annotated[str, Field(max_length=64)]
    field: Annotated[str, Field(max_length=64)]
    name: Annotated[str, Field(max_length=64)] = ""
    points: Annotated[Points, Field(max_length=200)]


@dataclass(frozen=True, slots=True)
class Draft:
    """A changed cameras.yaml that was found valid and is not written yet.

    Attributes:
        file: Where it belongs.
        base: What it was made from.
        revision: What would stand there.
        config: The configuration in it.
        diff: From one to the other, as unified diff; empty if nothing changes.
    """

    file: Path
    base: Revision
    revision: Revision
    config: Config = field(repr=False)
    diff: str = ""

    def write(self) -> Path:
        """Put it in place of the file, at once and with a copy of the former one beside it.

        Returns:
            The copy of the former file.

        Raises:
            StaleConfigError: if the file is not `base` any more.
            ConfigError: if it cannot be written.
        """
        file = self.file.resolve()  # a link stays a link
        with _WRITING:
            if read_revision(file).sha256 != self.base.sha256:
                raise StaleConfigError(f"{self.file}: was changed meanwhile; nothing was written")
            now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            backup = file.with_name(f"{file.name}.{now}.bak")
            try:
                _put(backup, self.base.text, like=file)
                _put(file, self.revision.text, like=file)
            except OSError as error:
                raise ConfigError(
                    f"{self.file}: cannot be written: {error.strerror}; "
                    "expected a folder that the console may write to"
                ) from error
            for old in sorted(file.parent.glob(f"{file.name}.*.bak"))[:-BACKUPS]:
                with contextlib.suppress(OSError):
                    old.unlink()
        return backup


def fields_of(camera: CameraSettings) -> list[RegionField]:
    """Every key of the camera that holds polygons; a plug-in's too, found by its type."""
    found = [
        RegionField(name, key, shape)
        for name in camera.scenarios
        for key, shape in _polygon_fields(load_scenario(name).Parameters)
    ]
    return found + [
        RegionField(PRIVACY, key, shape) for key, shape in _polygon_fields(PrivacySettings)
    ]


def regions_of(camera: CameraSettings) -> list[Region]:
    """The polygons in force, defaults included."""
    found: list[Region] = []
    for one in fields_of(camera):
        value = getattr(_settings(camera, one.scenario), one.name)
        if value is None:
            continue
        parts: Mapping[str, Points]
        if one.shape == "named":
            parts = value
        elif one.shape == "list":
            parts = {str(index): points for index, points in enumerate(value)}
        else:
            parts = {"": value}
        found += [
            Region(
                scenario=one.scenario,
                field=one.name,
                name=name if one.shape == "named" else "",
                points=points,
            )
            for name, points in parts.items()
        ]
    return found


def draft(file: Path, base_sha256: str, camera_id: str, regions: Sequence[Region]) -> Draft:
    """The file with these polygons instead of the camera's, checked and not written.

    Args:
        file: cameras.yaml.
        base_sha256: Of the content that the person saw.
        camera_id: Of one of its cameras.
        regions: All polygons that the camera is to have. A key whose polygons are the same stays untouched; one that
            had some and has none here goes back to its default.

    Raises:
        StaleConfigError: if the file has another content than the person saw.
        ConfigError: if what comes out is not valid (one line each: file, line, path, what was expected) or would
            change more than this camera.
    """
    base = read_revision(file)
    if base.sha256 != base_sha256:
        raise StaleConfigError(f"{file}: was changed meanwhile; nothing was written")
    before = base.parse(file)
    try:
        camera = before.camera(camera_id)
    except KeyError:
        raise ConfigError(f"{file}: there is no camera {camera_id!r}") from None
    known = fields_of(camera)
    named = {(one.scenario, one.name) for one in known}
    for region in regions:
        if (region.scenario, region.field) not in named:
            raise ConfigError(
                f"{file}: camera {camera_id}: {region.scenario}.{region.field} holds no polygons"
            )
    text = base.text.decode("utf-8")
    changed: list[tuple[RegionField, list[Region]]] = []
    now = regions_of(camera)
    for one in known:
        old, new = (
            [r for r in part if (r.scenario, r.field) == (one.scenario, one.name)]
            for part in (now, regions)
        )
        if [(r.name, _rounded(r.points)) for r in old] != [
            (r.name, _rounded(r.points)) for r in new
        ]:
            changed.append((one, new))
    if not changed:
        return Draft(file, base, base, before)
    edited = text
    try:
        index = [one.id for one in before.cameras].index(camera_id)
        for one, new in changed:
            edited = _edited(edited, ("cameras", index), one, new)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, StopIteration) as error:
        raise ConfigError(
            f"{file}: camera {camera_id}: stands in the file in a way that only a person can edit"
        ) from error
    revision = Revision.of(edited.encode())
    after = revision.parse(file)
    _check(file, before, after, camera_id, changed)
    diff = "".join(
        difflib.unified_diff(
            text.splitlines(keepends=True),
            edited.splitlines(keepends=True),
            f"a/{file.name}",
            f"b/{file.name}",
            n=2,
        )
    )
    return Draft(file, base, revision, after, diff)


def _check(
    file: Path,
    before: Config,
    after: Config,
    camera_id: str,
    changed: Sequence[tuple[RegionField, Sequence[Region]]],
) -> None:
    """What was asked for and nothing else: an anchor may make one polygon that of several cameras."""
    was, now = before.camera(camera_id), after.camera(camera_id)
    wanted = {(one.scenario, one.name): _drawn(regions) for one, regions in changed}
    for one in fields_of(now):
        key = one.scenario, one.name
        of_field = [r for r in regions_of(now) if (r.scenario, r.field) == key]
        if wanted.get(key) and _drawn(of_field) != wanted[key]:
            raise ConfigError(
                f"{file}: camera {camera_id}: {one.scenario}.{one.name} stands in the file in a way "
                "that only a person can edit"
            )
    names = [name for name in Config.model_fields if name != "cameras"]
    reached = [name for name in names if getattr(before, name) != getattr(after, name)]
    reached += [
        old.id
        for old, new in zip(before.cameras, after.cameras, strict=True)
        if old != new and old.id != camera_id
    ]
    touched = {one.scenario for one, _ in changed}
    for name, old in was.scenarios.items():
        if name not in touched and old != now.scenarios[name]:
            reached.append(f"{camera_id}.{name}")
    if reached:
        raise ConfigError(
            f"{file}: the change would reach {', '.join(reached)} too (an anchor or an alias); "
            "edit the file by hand"
        )


def _drawn(regions: Iterable[Region]) -> list[tuple[str, list[list[float | int]]]]:
    return sorted((region.name, _rounded(region.points)) for region in regions)


# The document


def _edited(text: str, camera: YamlPath, one: RegionField, regions: Sequence[Region]) -> str:
    """The text with the polygons of one key set."""
    key: YamlPath = (
        (*camera, PRIVACY) if one.scenario == PRIVACY else (*camera, "scenarios", one.scenario)
    )
    key = (*key, one.name)
    if not regions:
        return _without(text, key)
    if one.shape == "list":
        listed = ", ".join(_flow(region.points) for region in regions)
        return _with(text, key, f"[{listed}]")
    if one.shape == "one":
        return _with(text, key, _flow(regions[0].points))
    present = _names(text, key)
    for region in regions:
        if present.get(region.name) != _rounded(region.points):
            text = _with(text, (*key, region.name), _flow(region.points))
    # Afterwards, so that a zone with another name leaves the mapping standing.
    for name in present.keys() - {region.name for region in regions}:
        text = _without(text, (*key, name))
    return text


def _names(text: str, path: YamlPath) -> dict[str, list[list[float | int]]]:
    """The polygons that stand in the file itself under a key, by name."""
    node, rest = _walk(_compose(text), path)
    if rest or not isinstance(node, yaml.MappingNode):
        return {}
    found: dict[str, list[list[float | int]]] = {}
    for name, value in node.value:
        if name.value != "<<":
            data = yaml.constructor.SafeConstructor().construct_document(value)
            found[str(name.value)] = _rounded(data)
    return found


def _with(text: str, path: YamlPath, value: str) -> str:
    """The text with `value` (flow style) at a path; the mappings on the way are made where there are none."""
    node, rest = _walk(_compose(text), path)
    if not rest:
        return text[: node.start_mark.index] + value + text[_end(node) :]
    for key in reversed(rest[1:]):
        value = f"{{{_scalar(key)}: {value}}}"
    entry = f"{_scalar(rest[0])}: {value}"
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        column = node.value[0][0].start_mark.column
        end = text.find("\n", _end(node))
        line_end = "\r\n" if "\r\n" in text else "\n"
        if end < 0:
            return f"{text}{line_end}{' ' * column}{entry}{line_end}"
        return f"{text[: end + 1]}{' ' * column}{entry}{line_end}{text[end + 1 :]}"
    start, end = int(node.start_mark.index), _end(node)
    if isinstance(node, yaml.MappingNode):
        inside = text[start : end - 1].rstrip()
        return f"{inside if node.value else '{'}{', ' if node.value else ''}{entry}}}".join(
            (text[:start], text[end:])
        )
    if isinstance(node, yaml.SequenceNode):  # `scenarios: [fire, illegal_parking]`
        named = [str(item.value) for item in node.value]
        entries = [entry if name == rest[0] else f"{_scalar(name)}: {{}}" for name in named]
        return f"{text[:start]}{{{', '.join(entries)}}}{text[end:]}"
    space = "" if start != end or text[start - 1 : start].isspace() else " "  # `fire:`
    return f"{text[:start]}{space}{{{entry}}}{text[end:]}"


def _without(text: str, path: YamlPath) -> str:
    """The text without the key at a path; a mapping that has no other becomes ``{}``."""
    root = _compose(text)
    _, rest = _walk(root, path)
    if rest:
        return text  # it stands elsewhere: under `defaults`, or nowhere
    parent, _ = _walk(root, path[:-1])
    assert isinstance(parent, yaml.MappingNode)  # noqa: S101 - the key was found in it
    entries = parent.value
    index = next(i for i, (key, _) in enumerate(entries) if key.value == path[-1])
    if len(entries) == 1:
        start = parent.start_mark.index
        if not parent.flow_style:  # from the key before it on: `fire:` and its line end
            start = len(text[:start].rstrip())
            if text[start - 1] != ":":
                raise ValueError("a comment stands between")
            return f"{text[:start]} {{}}{text[_end(parent) :]}"
        return f"{text[:start]}{{}}{text[_end(parent) :]}"
    key, value = entries[index]
    start, end = key.start_mark.index, _end(value)
    if not parent.flow_style:
        start = text.rfind("\n", 0, start) + 1
        if text[start : key.start_mark.index].strip():
            raise ValueError("it is not alone on its line")
        end = text.find("\n", end) + 1 or len(text)
    elif index + 1 < len(entries):
        end = entries[index + 1][0].start_mark.index
    else:
        start = _end(entries[index - 1][1])
    return text[:start] + text[end:]


def _compose(text: str) -> yaml.Node:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None  # noqa: S101 - it was read as a configuration before
    return node


def _walk(node: yaml.Node, path: YamlPath) -> tuple[yaml.Node, YamlPath]:
    """The node at a path, or the last one on the way to it and the rest of the path."""
    for place, part in enumerate(path):
        if isinstance(part, int):
            node = node.value[part]
            continue
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((value for key, value in entries if key.value == part), None)
        if found is None:
            return node, path[place:]
        node = found
    return node, ()


def _end(node: yaml.Node) -> int:
    """Where a node's last character is; the parser's own mark of a block is where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    return int(node.end_mark.index)


def _flow(points: Iterable[Iterable[float]]) -> str:
    return f"[{', '.join(f'[{x:g}, {y:g}]' for x, y in _rounded(points))}]"


def _scalar(key: str | int) -> str:
    text = str(key)
    plain = re.fullmatch(r"[^\W\d][\w -]*", text) and text == text.strip()
    return text if plain and yaml.safe_load(text) == text else json.dumps(text, ensure_ascii=False)


def _rounded(points: Iterable[Iterable[float]]) -> list[list[float | int]]:
    return [[_number(value) for value in point] for point in points]


def _number(value: float) -> float | int:
    rounded = round(float(value), DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded


# The settings


def _settings(camera: CameraSettings, scenario: str) -> Settings:
    return camera.privacy if scenario == PRIVACY else camera.scenarios[scenario]


def _polygon_fields(model: type[BaseModel]) -> Iterator[tuple[str, Shape]]:
    for name, info in model.model_fields.items():
        shape = _shape(info.annotation, info.metadata)
        if shape is not None:
            yield name, shape


def _shape(annotation: object, metadata: Sequence[object] = ()) -> Shape | None:
    if _POLYGON_CHECK in metadata:
        return "one"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return next((shape for part in arguments if (shape := _shape(part))), None)
    if origin is dict and len(arguments) == 2 and _shape(arguments[1]) == "one":
        return "named"
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return "list" if _shape(arguments[0]) == "one" else None
    return None


def _put(file: Path, content: bytes, *, like: Path) -> None:
    """Write a file under another name and put it in its place, with the rights of `like`."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    status = like.stat()
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(status.st_mode & 0o777)
        with contextlib.suppress(PermissionError):  # another owner's file keeps ours
            os.chown(temporary, status.st_uid, status.st_gid)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
