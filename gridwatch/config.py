"""cameras.yaml: its schema, and errors that name the line.

Each stage defines its own settings beside its code; this module puts them together into one document.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import platformdirs
import yaml
from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, field_validator

from alerts.accuracy import AccuracySettings
from alerts.connection import BrokerSettings
from alerts.dispatch import DispatchSettings
from alerts.evidence import EvidenceSettings
from alerts.privacy import PrivacySettings
from alerts.storm import HEALTH, StormSettings
from gridwatch.actuators import ActuatorSettings
from gridwatch.located_yaml import LocatedYaml, YamlPath, load_located
from pipeline.analyse.scenario import ScenarioParameters, load_scenario, scenario_names
from pipeline.capture.health import HealthParameters
from pipeline.capture.settings import StreamSettings, redact
from pipeline.exceptions import ConfigError, ScenarioError
from pipeline.units import ByteSize, Settings

__all__ = [
    "CameraSettings",
    "Config",
    "RuntimeSettings",
    "SiteSettings",
    "grids_file_of",
    "load_config",
    "parse_config",
]

# Paths that are meant relative to cameras.yaml, as a camera's file is.
FOLDERS = (("evidence", "folder"), ("runtime", "registry"), ("storage", "folder"))
GRIDS_KEYS = ["grids", "people", "departments", "offices", "ladders"]  # of dispatch.grids_file
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SECRET = re.compile(r"password|signing_key|token|contacts", re.IGNORECASE)


def _check_identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError(
            "expected an identifier of a-z, 0-9, - and _ (it becomes part of an MQTT topic)"
        )
    return value


Identifier = Annotated[str, AfterValidator(_check_identifier)]


class SiteSettings(Settings):
    """The place that the cameras watch.

    Attributes:
        id: Part of every topic.
        name: For people.
        timezone: IANA name; active windows are in this time.
        language: Of the operators' messages.
    """

    id: Identifier
    name: str = ""
    timezone: str = "Asia/Shanghai"
    language: Literal["zh", "en"] = "zh"

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("expected an IANA time zone such as Asia/Shanghai") from error
        return value


class StorageSettings(Settings):
    """Where tickets live until they are disposed of, and after.

    Attributes:
        folder: Of all state; by default the service's ``STATE_DIRECTORY`` or the user's state folder.
        database: URL of a PostgreSQL database of this host's own (extra `postgres`); by default SQLite in `folder`.
            Write `database_file:` or ${VAR} for its password, not the password itself.
        keep_days: Disposed tickets and decision records older than this are deleted.
        record_detections: Keep what scenarios saw, without pictures, so that `gridwatch benchmark replay` can try
            other rules on it.
        detections_bytes: Size of those logs, of all cameras together; the oldest are deleted.
    """

    folder: str = ""
    database: str = ""
    keep_days: float = Field(default=90, gt=0)
    record_detections: bool = False
    detections_bytes: ByteSize = Field(default=1024**3, ge=64 * 1024**2)


class RuntimeSettings(Settings):
    """What the host gives.

    Attributes:
        providers: ONNX Runtime execution providers, best first.
        threads: Threads per inference; 0 takes one less than the cores, at least one.
        registry: A registry of further models, overriding the shipped one.
        metrics_port: Prometheus port; none when empty.
        metrics_address: Address it listens on.
        log_format: ``auto`` is human on a terminal and JSON elsewhere.
        reload: Apply a changed cameras.yaml without being told to; otherwise at SIGHUP alone.
        memory_limit: An engine that holds more resident memory hands over to a new one; none when empty.
    """

    providers: tuple[str, ...] = ("cpu",)
    threads: int = Field(default=0, ge=0)
    registry: str | None = None
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    metrics_address: str = "127.0.0.1"
    log_format: Literal["auto", "json", "human"] = "auto"
    reload: bool = True
    memory_limit: ByteSize | None = None


class CameraSettings(Settings):
    """One camera.

    Attributes:
        id: Part of topics and file names.
        name: For people.
        stream: Where its pictures come from.
        grid: Its micro-grid: a path such as ``jinjiang/12/3``.
        group: Cameras of one group share storm control.
        scenarios: Parameters by scenario.
        health: Rules for dead, frozen, covered and turned cameras; false switches them off.
        privacy: What must never leave memory.
        actuators: By scenario, what moves when its alarm is raised.
        simulated: Its tickets say that the pictures are simulated.
        enabled: A disabled camera is checked but not run.
    """

    id: Identifier
    name: str = ""
    stream: StreamSettings
    grid: str = ""
    group: str = ""
    scenarios: Mapping[str, ScenarioParameters] = Field(default_factory=dict)
    health: HealthParameters | None = HealthParameters()
    privacy: PrivacySettings = PrivacySettings()
    actuators: Mapping[str, tuple[ActuatorSettings, ...]] = Field(default={})
    simulated: bool = False
    enabled: bool = True


class Config(Settings):
    """The whole of cameras.yaml.

    Attributes:
        host: This machine, as in its tickets and topics; by default its host name.
        cameras: At least one; see below.
    """

    site: SiteSettings
    host: Identifier = Field(default_factory=lambda: _host_identifier())
    broker: BrokerSettings = BrokerSettings()
    storage: StorageSettings = StorageSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    storm: StormSettings = StormSettings()
    dispatch: DispatchSettings = DispatchSettings()
    accuracy: AccuracySettings = AccuracySettings()
    runtime: RuntimeSettings = RuntimeSettings()
    cameras: tuple[CameraSettings, ...]

    @property
    def timezone(self) -> ZoneInfo:
        """The site's time zone."""
        return ZoneInfo(self.site.timezone)

    def camera(self, camera_id: str) -> CameraSettings:
        """The camera of that id; KeyError if there is none."""
        return {camera.id: camera for camera in self.cameras}[camera_id]

    def state_folder(self) -> Path:
        """Where everything lives that must survive a restart."""
        if self.storage.folder:
            return Path(self.storage.folder).expanduser()
        base = os.environ.get("STATE_DIRECTORY") or platformdirs.user_state_dir(
            "gridwatch", appauthor=False
        )
        return Path(base) / self.site.id

    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.storage.database or f"sqlite:///{self.state_folder() / 'tickets.sqlite'}"


def load_config(
    file: Path, environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Read and check cameras.yaml.

    Args:
        file: The YAML file.
        environ: Where ``${VAR}`` comes from; the process environment by default.
        overrides: ``KEY=VALUE`` with a dotted key and a YAML value, e.g. ``broker.port=1884``; they win over the file.

    Raises:
        ConfigError: with one line per problem: file, line, path, what was found, what was expected.
    """
    return parse_config(load_located(file, environ), overrides, environ)


def parse_config(
    document: LocatedYaml,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    grids: bytes | None = None,
) -> Config:
    """Check a document that was read already.

    Args:
        document: cameras.yaml.
        overrides: As for `load_config`, which see for the rest.
        environ: As for `load_config`.
        grids: What is to be taken for the content of `dispatch.grids_file`, if not what stands in it now.
    """
    file = document.file
    problems: list[str] = []
    data = _overridden(document, overrides)
    defaults = data.pop("defaults", None) or {}
    origins: dict[YamlPath, YamlPath] = {}
    for section, key in FOLDERS:
        inner = data.get(section)
        if isinstance(inner, dict) and isinstance(inner.get(key), str) and inner[key]:
            data = _put(data, [section, key], _resolve(inner[key], file.parent))
    cameras = data.get("cameras")
    if isinstance(cameras, list):
        data["cameras"] = [
            _camera(document, index, camera, defaults, origins, problems)
            for index, camera in enumerate(cameras)
        ]
    problems.extend(_unknown_defaults(document, defaults))
    data, grids_document = _with_grids_file(document, overrides, data, environ, grids)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems.extend(_explain(document, error, Config, (), origins))
        raise ConfigError(*_unique(problems)) from None
    problems.extend(_cross_checks(document, config, grids_document))
    if problems:
        raise ConfigError(*_unique(problems))
    return config


def grids_file_of(document: LocatedYaml, overrides: Sequence[str] = ()) -> Path | None:
    """The file that `dispatch.grids_file` names, whether it is there or not; None without one.

    Raises:
        ConfigError: if an override is not valid.
    """
    inline = _overridden(document, overrides).get("dispatch")
    name = inline.get("grids_file") if isinstance(inline, dict) else None
    return (
        document.file.parent / Path(name).expanduser() if isinstance(name, str) and name else None
    )


def _overridden(document: LocatedYaml, overrides: Sequence[str]) -> dict[str, Any]:
    data = dict(document.data)
    for override in overrides:
        data = _override(data, override)
    return data


def _override(data: Mapping[str, Any], text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected KEY=VALUE such as broker.port=1884")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from error
    return _put(data, key.split("."), parsed)


def _put(data: Mapping[str, Any], keys: list[str], value: object) -> dict[str, Any]:
    inner = data.get(keys[0])
    below = inner if isinstance(inner, dict) else {}
    return {**data, keys[0]: _put(below, keys[1:], value) if keys[1:] else value}


def _camera(
    document: LocatedYaml,
    index: int,
    camera: object,
    defaults: Mapping[str, Any],
    origins: dict[YamlPath, YamlPath],
    problems: list[str],
) -> object:
    """One camera with defaults merged, its stream gathered and its scenarios validated."""
    if not isinstance(camera, dict):
        return camera
    here: YamlPath = ("cameras", index)
    merged: dict[str, Any] = dict(camera)
    for key in ("privacy", "health"):
        if key not in merged and key in defaults:
            merged[key] = defaults[key]
            origins[*here, key] = ("defaults", key)
    if merged.get("health") is False:
        merged["health"] = None
    stream = _merge(defaults.get("stream"), {})
    for key in list(merged):
        if key in StreamSettings.model_fields:
            origins[*here, "stream", key] = (*here, key)
            stream[key] = merged.pop(key)
    if isinstance(merged.get("streams"), dict):
        stream.update(merged.pop("streams"))
        origins[*here, "stream"] = (*here, "streams")
    for key in ("url", "detect", "record"):
        if isinstance(stream.get(key), str):
            stream[key] = _resolve(stream[key], document.file.parent)
    merged["stream"] = stream
    origins.setdefault((*here, "stream"), here)
    scenarios = merged.get("scenarios", {})
    if isinstance(scenarios, list):  # `scenarios: [fire]` means fire with its defaults
        scenarios = {str(name): None for name in scenarios}
    if isinstance(scenarios, dict):
        base = defaults.get("scenarios") or {}
        merged["scenarios"] = {
            name: parameters
            for name, own in scenarios.items()
            if (
                parameters := _scenario(
                    document, (*here, "scenarios", name), name, base.get(name), own, problems
                )
            )
        }
    return merged


def _scenario(
    document: LocatedYaml,
    path: YamlPath,
    name: str,
    base: object,
    own: object,
    problems: list[str],
) -> ScenarioParameters | None:
    if own is not None and not isinstance(own, dict):
        problems.append(f"{document.place(path)}: expected parameters as a mapping, found {own!r}")
        return None
    try:
        parameters = load_scenario(name).Parameters
    except ScenarioError as error:
        suggestion = _suggest(name, scenario_names())
        problems.append(f"{document.place(path)}: {error}{suggestion}")
        return None
    try:
        return parameters.model_validate(_merge(base, own or {}))
    except ValidationError as error:
        default_path: YamlPath = ("defaults", "scenarios", name)
        origins = (
            {(*path, key): (*default_path, key) for key in base if key not in (own or {})}
            if isinstance(base, dict)
            else {}
        )
        problems.extend(_explain(document, error, parameters, path, origins))
        return None


def _merge(base: object, own: Mapping[str, Any]) -> dict[str, Any]:
    return {**base, **own} if isinstance(base, dict) else dict(own)


def _resolve(url: str, folder: Path) -> str:
    """A file URL relative to cameras.yaml, or ``package:NAME/PATH`` inside an installed package."""
    if url.startswith("package:"):
        package, _, inside = url.removeprefix("package:").partition("/")
        try:
            return str(resources.files(package).joinpath(inside))
        except ModuleNotFoundError:
            return url
    if "://" in url or url.startswith("/dev/"):
        return url
    return str((folder / Path(url).expanduser()).resolve())


def _unknown_defaults(document: LocatedYaml, defaults: object) -> Iterator[str]:
    known = ["health", "privacy", "scenarios", "stream"]
    if not isinstance(defaults, dict):
        yield f"{document.place(('defaults',))}: expected a mapping, found {defaults!r}"
        return
    for key in defaults:
        if key not in known:
            yield (
                f"{document.place(('defaults', key))}: unknown key, expected one of "
                f"{', '.join(known)}{_suggest(key, known)}"
            )
    scenarios = defaults.get("scenarios") or {}
    for name in scenarios if isinstance(scenarios, dict) else ():
        if name not in scenario_names():
            yield (
                f"{document.place(('defaults', 'scenarios', name))}: scenario {name!r} is not "
                f"installed; expected one of {', '.join(scenario_names())}"
                f"{_suggest(name, scenario_names())}"
            )


def _with_grids_file(
    document: LocatedYaml,
    overrides: Sequence[str],
    data: dict[str, Any],
    environ: Mapping[str, str] | None,
    text: bytes | None,
) -> tuple[dict[str, Any], LocatedYaml | None]:
    """The document with the content of `dispatch.grids_file` in `dispatch`, and that file.

    Raises:
        ConfigError: with the places of all that is wrong in that file.
    """
    file = grids_file_of(document, overrides)
    if file is None:
        return data, None
    inline = data["dispatch"]
    grids = load_located(file, environ, text=text)
    problems = [
        f"{grids.place((key,))}: unknown key{_suggest(key, GRIDS_KEYS) or _one_of(GRIDS_KEYS)}"
        for key in grids.data
        if key not in GRIDS_KEYS
    ]
    problems += [
        f"{document.place(('dispatch', key))}: stands in {grids.file} too, expected it in one place"
        for key in grids.data
        if key in inline
    ]
    if not problems:
        try:
            DispatchSettings.model_validate(grids.data)
        except ValidationError as error:
            problems += _explain(grids, error, DispatchSettings, (), {})
    if problems:
        raise ConfigError(*_unique(problems))
    return {**data, "dispatch": {**inline, **grids.data}}, grids


def _dispatch_checks(
    document: LocatedYaml, config: Config, grids: LocatedYaml | None
) -> Iterator[str]:
    def place(path: YamlPath) -> str:
        if grids is not None and path[0] in grids.data:
            return grids.place(path)
        return document.place(("dispatch", *path))

    settings = config.dispatch
    for path, problem in settings.problems():
        yield f"{place(path)}: {problem}"
    known = [*scenario_names(), HEALTH]
    for key, names in (("ladders", [*known, "default"]), ("departments", known)):
        written = getattr(settings, key) if key in settings.model_fields_set else ()
        for name in written:
            if name not in names:
                hint = _suggest(name, names) or _one_of(names)
                yield f"{place((key, name))}: there is no scenario {name!r}{hint}"
    for index, camera in enumerate(config.cameras):
        for name in camera.actuators:
            if name not in camera.scenarios:
                at = document.place(("cameras", index, "actuators", name))
                names = list(camera.scenarios)
                yield f"{at}: the camera has no scenario {name!r}{_suggest(name, names) or _one_of(names)}"


def _cross_checks(
    document: LocatedYaml, config: Config, grids: LocatedYaml | None
) -> Iterator[str]:
    yield from _dispatch_checks(document, config, grids)
    seen: dict[str, int] = {}
    for index, camera in enumerate(config.cameras):
        if camera.id in seen:
            first = document.place(("cameras", seen[camera.id], "id"))
            yield f"{document.place(('cameras', index, 'id'))}: {camera.id!r} is taken by {first}"
        seen.setdefault(camera.id, index)
        if (problem := config.dispatch.problem(camera.grid)) is not None:
            yield f"{document.place(('cameras', index, 'grid'))}: {problem}"
    named = {"camera": list(seen), "scenario": [*scenario_names(), HEALTH]}
    for index, mute in enumerate(config.storm.mutes):
        for key, known in named.items():
            name = getattr(mute, key)
            if name and name not in known:
                place = document.place(("storm", "mutes", index, key))
                yield f"{place}: there is no {key} {name!r}{_suggest(name, known) or _one_of(known)}"
    if not config.cameras:
        yield f"{document.place(('cameras',))}: expected at least one camera, found none"


def _explain(
    document: LocatedYaml,
    error: ValidationError,
    model: type[BaseModel],
    prefix: YamlPath,
    origins: Mapping[YamlPath, YamlPath],
) -> Iterator[str]:
    """Pydantic's errors as lines: place, what was expected, what was found."""
    for item in error.errors(include_url=False):
        loc: YamlPath = tuple(part for part in item["loc"] if not str(part).startswith("function-"))
        place = document.place(_origin((*prefix, *loc), origins))
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, loc[:-1])
            if (loc[:-1] and loc[-2] == "stream") or _is_camera(model, loc):
                known = sorted(
                    {*CameraSettings.model_fields, *StreamSettings.model_fields} - {"stream"}
                )
            yield f"{place}: unknown key{_suggest(str(loc[-1]), known) or _one_of(known)}"
        elif item["type"] == "missing":
            yield f"{place}: is missing"
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            found = _found(item.get("input"), loc)
            suffix = "" if "found" in message or found is None else f", found {found}"
            yield f"{place}: {message.replace('input should', 'should')}{suffix}"


def _is_camera(model: type[BaseModel], loc: YamlPath) -> bool:
    return model is Config and len(loc) == 3 and loc[0] == "cameras"


def _origin(path: YamlPath, origins: Mapping[YamlPath, YamlPath]) -> YamlPath:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return (*origins[path[:length]], *path[length:])
    return path


def _found(value: object, loc: YamlPath) -> str | None:
    if isinstance(value, SecretStr) or any(_SECRET.search(str(part)) for part in loc):
        return None
    if isinstance(value, dict | BaseModel):
        return "a mapping"
    text = redact(value) if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return repr(text) if isinstance(value, str) else text[:80]


def _fields_at(model: type[BaseModel], loc: YamlPath) -> list[str]:
    """Names of the fields that stand at `loc` under `model`."""
    current: object = model
    for part in loc:
        if isinstance(part, str) and isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            current = field.annotation if field is not None else None
        else:
            arguments = typing.get_args(current)
            current = (
                arguments[-1]
                if isinstance(part, str) and arguments
                else next(iter(arguments), None)
            )
        current = _model_in(current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _model_in(annotation: object) -> object:
    """The one model of an optional or annotated type; other types as they are."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        for argument in typing.get_args(annotation):
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                return argument
    return annotation


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _one_of(known: list[str]) -> str:
    return f"; expected one of {', '.join(known)}" if known else ""


def _unique(problems: list[str]) -> list[str]:
    return list(dict.fromkeys(problems))


def _host_identifier() -> str:
    name = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().lower()).strip("-")
    return name or "host"
