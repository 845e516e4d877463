"""Labels that people already have: CVAT for video, i-LIDS-like XML, Label Studio's video JSON → ``labels.csv``.

Formats: CVAT's "CVAT for video 1.1" (tracks of boxes per frame); the index of the i-LIDS library and its relatives
such as KISA's (clips with alarms as start time and duration); Label Studio's JSON export with timeline labels or
video rectangles. Frames become seconds by the clip's own time stamps where the clip is at hand.
"""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import av

from benchmarks.labels import CSV_NAME, NONE, SCENARIO_OF, VEHICLE_STOPPED
from pipeline.analyse.scenario import scenario_names
from pipeline.exceptions import ConfigError
from pipeline.observation import RelativeBox

__all__ = ["ImportedEvent", "import_labels", "write_csv"]

IGNORE = "ignore"
LABEL_STUDIO_FPS = 25.0  # what its editor assumes where the project states no frame rate


@dataclass(frozen=True, slots=True)
class ImportedEvent:
    """One event as the tool wrote it.

    Attributes:
        clip: File name.
        word: The tool's label; None for a clip that was looked at and holds nothing.
        start_s: Seconds from the clip's first picture.
        end_s: The same; None where the tool only says until the clip's end.
        box: Where it was when it began, as fractions of the picture.
        place: In the imported file.
    """

    clip: str
    word: str | None
    start_s: float
    end_s: float | None
    box: RelativeBox | None
    place: str


def import_labels(
    file: Path, folder: Path, words: Mapping[str, str], *, fps: float | None = None
) -> list[ImportedEvent]:
    """Read a tool's file; its kind is told by its content.

    Args:
        file: The tool's export.
        folder: Where the clips lie; they are needed to turn frames into seconds unless `fps` is given.
        words: The tool's labels as ours: a scenario, ``fire``, ``smoke``, ``vehicle_stopped``, or ``ignore``; those
            that are ours already need no entry.
        fps: Frame rate of all clips.

    Returns:
        Events with our words, sorted by clip and time.

    Raises:
        ConfigError: if the file cannot be read, is of no known kind, or holds a label without a translation.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start})") from error
    clock = _Clock(folder, fps)
    if text.lstrip().startswith(("[", "{")):
        found = list(_label_studio(file, text, clock))
    else:
        found = list(_xml(file, text, clock))
    return _translated(found, words)


def write_csv(events: Iterable[ImportedEvent], folder: Path, *, replace_file: bool = False) -> Path:
    """Write ``labels.csv`` for the clips of a folder; returns its path.

    Raises:
        ConfigError: if there is one already and it must not be replaced, or it cannot be written.
    """
    out = folder / CSV_NAME
    if out.exists() and not replace_file:
        raise ConfigError(f"{out}: exists already, expected none (or --replace)")
    places = _clips_in(folder)
    try:
        with out.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["clip", "event", "start_s", "end_s", "box"])
            for event in events:
                there = places.get(event.clip, [])
                clip = there[0] if len(there) == 1 else event.clip
                if event.word is None:
                    writer.writerow([clip, NONE, "", "", ""])
                    continue
                box = ",".join(f"{v:.4f}" for v in event.box) if event.box is not None else ""
                end_s = event.end_s if event.end_s is not None else event.start_s
                writer.writerow([clip, event.word, f"{event.start_s:.2f}", f"{end_s:.2f}", box])
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _clips_in(folder: Path) -> dict[str, list[str]]:
    """Paths of the files below a folder, relative to it and sorted, by file name."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.setdefault(path.name, []).append(path.relative_to(folder).as_posix())
    return found


def _translated(events: Iterable[ImportedEvent], words: Mapping[str, str]) -> list[ImportedEvent]:
    known = {*scenario_names(), *SCENARIO_OF, VEHICLE_STOPPED}
    for ours in words.values():
        if ours not in known | {IGNORE}:
            listed = ", ".join(sorted(known | {IGNORE}))
            raise ConfigError(f"--map: found {ours!r}, expected one of {listed}")
    result: list[ImportedEvent] = []
    seen: dict[str, None] = {}
    for event in events:
        seen[event.clip] = None
        if event.word is None:
            continue
        word = words.get(event.word, event.word)
        if word == IGNORE:
            continue
        if word not in known:
            raise ConfigError(
                f"{event.place}: found the label {event.word!r}, expected one of "
                f"{', '.join(sorted(known))}, or --map '{event.word}=...'"
            )
        result.append(replace(event, word=word))
    busy = {event.clip for event in result}
    result += [ImportedEvent(clip, None, 0.0, None, None, "") for clip in seen if clip not in busy]
    return sorted(result, key=lambda event: (event.clip, event.start_s))


class _Clock:
    """Frame numbers to seconds."""

    def __init__(self, folder: Path, fps: float | None) -> None:
        self._folder = folder
        self._fps = fps
        self._times: dict[str, list[float]] = {}

    def seconds(self, clip: str, frame: int, place: str) -> float:
        if self._fps is not None:
            return frame / self._fps
        if clip not in self._times:
            self._times[clip] = self._read(clip, place)
        times = self._times[clip]
        # The end of an event is the frame after its last one: one step beyond the clip is its end.
        return times[min(max(frame, 0), len(times) - 1)]

    @cached_property
    def _places(self) -> dict[str, list[str]]:
        return _clips_in(self._folder)

    def _read(self, clip: str, place: str) -> list[float]:
        there = self._places.get(clip)
        if there is None:
            raise ConfigError(
                f"{place}: found no clip {clip} in {self._folder}, expected it there (or --fps)"
            )
        path = self._folder / there[0]
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                base = float(stream.time_base or 0)
                packets = [p for p in container.demux(stream) if p.pts is not None]
                stamps = sorted(p.pts * base for p in packets if p.pts is not None)
                last = float((packets[-1].duration or 0) * base) if packets else 0.0
        except (av.FFmpegError, IndexError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        if not stamps:
            raise ConfigError(f"{path}: found no pictures, expected a video")
        return [t - stamps[0] for t in stamps] + [stamps[-1] - stamps[0] + last]


def _xml(file: Path, text: str, clock: _Clock) -> Iterator[ImportedEvent]:
    if (
        "<!DOCTYPE" in text or "<!ENTITY" in text
    ):  # no tool writes them; an expanding one fills the memory
        raise ConfigError(f"{file}: found a document type, expected plain XML")
    try:
        root = ET.fromstring(text)  # noqa: S314 - without document type and entities
    except ET.ParseError as error:
        raise ConfigError(
            f"{file}:{error.position[0]}: is not valid XML or JSON: {error}"
        ) from error
    if root.tag == "annotations":
        yield from _cvat(file, root, clock)
    elif any(_name(element) == "clip" for element in root.iter()):
        yield from _ilids(file, root)
    else:
        raise ConfigError(
            f"{file}: found <{root.tag}>, expected CVAT's <annotations>, clips with alarms as in i-LIDS, "
            "or Label Studio's JSON"
        )


def _cvat(file: Path, root: ET.Element, clock: _Clock) -> Iterator[ImportedEvent]:
    if root.find("track") is None and root.find("image") is not None:
        raise ConfigError(
            f"{file}: found pictures, expected tracks: export as 'CVAT for video 1.1'"
        )
    sources: dict[str | None, tuple[str, float, float, int, int]] = {}
    tasks = [
        *root.iterfind("meta/task"),
        *root.iterfind("meta/job"),
        *root.iterfind("meta/project/tasks/task"),
    ]
    for task in tasks:
        width, height = (
            _number(file, task, f"original_size/{side}", root) for side in ("width", "height")
        )
        source = (
            task.findtext("source") or root.findtext("meta/source") or task.findtext("name") or ""
        ).strip()
        step = (task.findtext("frame_filter") or "").rpartition("=")[2]
        first = int(task.findtext("start_frame") or 0)
        details = (
            PurePosixPath(source).name,
            width,
            height,
            int(step) if step.isdigit() else 1,
            first,
        )
        sources[task.findtext("id")] = details
    if not sources:
        raise ConfigError(f"{file}: meta: found no task, expected one with its source")
    yield from (
        ImportedEvent(clip, None, 0.0, None, None, str(file)) for clip, *_ in sources.values()
    )
    only = next(iter(sources.values()))
    for track in root.iterfind("track"):
        clip, width_px, height_px, stride, first = sources.get(track.get("task_id"), only)
        place = f"{file}: track {track.get('id')}"
        for box, end in _runs(track, place):
            begin = int(box.get("frame", 0))
            corners = [float(box.get(k, 0)) for k in ("xtl", "ytl", "xbr", "ybr")]
            yield ImportedEvent(
                clip,
                track.get("label", ""),
                clock.seconds(clip, first + (begin - first) * stride, place),
                clock.seconds(clip, first + (end - first) * stride, place),
                _within(
                    corners[0] / width_px,
                    corners[1] / height_px,
                    corners[2] / width_px,
                    corners[3] / height_px,
                ),
                place,
            )


def _runs(track: ET.Element, place: str) -> Iterator[tuple[ET.Element, int]]:
    """The first box of each visible stretch and the frame after its last one."""
    begin: ET.Element | None = None
    last = -1
    for shape in track:
        try:
            frame = int(shape.get("frame", ""))
        except ValueError:
            raise ConfigError(
                f"{place}: frame: found {shape.get('frame')!r}, expected a number"
            ) from None
        if shape.get("outside") == "1":
            if begin is not None:
                yield begin, frame
            begin = None
        elif begin is None:
            begin = shape
        last = frame
    if begin is not None:
        yield begin, last + 1


def _ilids(file: Path, root: ET.Element) -> Iterator[ImportedEvent]:
    scenario = next((e.text or "" for e in root.iter() if _name(e) == "scenario"), "").strip()
    for clip in (element for element in root.iter() if _name(element) == "clip"):
        named = next((e.text or "" for e in clip.iter() if _name(e) == "filename"), "").strip()
        if not named:
            raise ConfigError(f"{file}: clip: found no filename, expected one")
        place = f"{file}: clip {named}"
        yield ImportedEvent(named, None, 0.0, None, None, place)
        for alarm in (element for element in clip.iter() if _name(element) == "alarm"):
            told = {_name(e): (e.text or "").strip() for e in alarm.iter()}
            start_s = _clock_time(told.get("starttime"), f"{place}: StartTime")
            if "alarmduration" in told:
                end_s = start_s + _clock_time(told["alarmduration"], f"{place}: AlarmDuration")
            else:
                end_s = _clock_time(told.get("endtime"), f"{place}: AlarmDuration")
            word = told.get("alarmdescription") or scenario
            yield ImportedEvent(named, word, start_s, end_s, None, place)


def _label_studio(file: Path, text: str, clock: _Clock) -> Iterator[ImportedEvent]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: is not valid JSON: {error.msg}") from error
    tasks = document if isinstance(document, list) else [document]
    for number, task in enumerate(tasks):
        place = f"{file}: task {task.get('id', number) if isinstance(task, dict) else number}"
        try:
            yield from _label_studio_task(task, place, clock)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"{place}: found {type(error).__name__}: {error}, expected Label Studio's export of a video"
            ) from error


def _label_studio_task(
    task: Mapping[str, Any], place: str, clock: _Clock
) -> Iterator[ImportedEvent]:
    data = task["data"]
    url = str(data.get("video") or next(iter(data.values())))
    # Local storage hides the file in the query, uploads put eight digits before the name.
    asked = parse_qs(urlsplit(url).query).get("d")
    clip = PurePosixPath(unquote(asked[0] if asked else urlsplit(url).path)).name
    head, _, tail = clip.partition("-")
    clip = tail if len(head) == 8 and tail and all(c in "0123456789abcdef" for c in head) else clip
    yield ImportedEvent(clip, None, 0.0, None, None, place)
    chosen = [a for a in task.get("annotations", ()) if not a.get("was_cancelled")]
    for item in chosen[-1]["result"] if chosen else ():
        value = item["value"]
        if "ranges" in value:  # frames counted from one, both ends within
            for word in value["timelinelabels"]:
                for span in value["ranges"]:
                    start_s = clock.seconds(clip, int(span["start"]) - 1, place)
                    end_s = clock.seconds(clip, int(span["end"]), place)
                    yield ImportedEvent(clip, word, start_s, end_s, None, place)
        elif "sequence" in value:
            yield from _rectangles(clip, value, place)


def _rectangles(clip: str, value: Mapping[str, Any], place: str) -> Iterator[ImportedEvent]:
    """A tracked box: key frames with their times; `enabled: false` ends a stretch."""
    fps = value["framesCount"] / value["duration"] if value.get("duration") else LABEL_STUDIO_FPS
    words = value.get("labels") or value.get("rectanglelabels") or ()

    def time_s(key: Mapping[str, Any]) -> float:
        return float(key["time"]) if "time" in key else (int(key["frame"]) - 1) / fps

    begin: Mapping[str, Any] | None = None
    stretches: list[tuple[Mapping[str, Any], float]] = []
    for key in value["sequence"]:
        if begin is None:
            begin = key
        if not key.get("enabled", True):
            stretches.append((begin, time_s(key)))
            begin = None
    if begin is not None:
        stretches.append((begin, float(value.get("duration") or time_s(begin))))
    for word in words:
        for first, end_s in stretches:
            x, y, w, h = (float(first[k]) / 100 for k in ("x", "y", "width", "height"))
            yield ImportedEvent(
                clip, word, time_s(first), end_s, _within(x, y, x + w, y + h), place
            )


def _within(x1: float, y1: float, x2: float, y2: float) -> RelativeBox | None:
    x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in (x1, y1, x2, y2))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2].lower()


def _number(file: Path, task: ET.Element, path: str, root: ET.Element) -> float:
    text = task.findtext(path) or root.findtext(f"meta/{path}") or ""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{file}: meta: {path}: found {text!r}, expected a number") from None


def _clock_time(text: str | None, place: str) -> float:
    """``hh:mm:ss[.f]`` or seconds."""
    try:
        parts = [float(part) for part in (text or "").split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts):
        raise ConfigError(f"{place}: found {text!r}, expected hh:mm:ss")
    total = 0.0
    for part in parts:
        total = total * 60 + part
    return total
