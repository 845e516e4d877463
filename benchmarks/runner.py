"""One clip through the daemon's engine, in virtual time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alerts.rules import Change, ChangeKind
from gridwatch.config import CameraSettings, Config
from gridwatch.engine import DetectorLike, Engine, Recorder
from pipeline.capture.reader import CameraReader
from pipeline.capture.source import AvSource, open_source
from pipeline.exceptions import CaptureError
from pipeline.observation import Json, RelativeBox

__all__ = [
    "START_T",
    "Alarm",
    "Candidate",
    "ClipRun",
    "Measure",
    "analyse",
    "decided",
    "measure",
    "merged",
    "run_from_json",
    "run_to_json",
]

# Every clip begins on Thursday, 2026-01-01 08:00 in Shanghai: a fixed time, so that two runs are the same to the byte.
START_T = 1_767_225_600.0
# A container whose rate tag is so far from its stamps lies (1000 fps in ASF); stamps are believed.
LYING_RATE = 0.2
# Less of a clip than this may be left after the last picture without it counting as broken off; beside two periods of
# the rate at which it was looked at.
TAIL_S = 1.0
PROGRESS_S = 2.0  # stream seconds between two reports


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm, before storm control; times in seconds from the clip's first picture, to the millisecond."""

    scenario: str
    subject: str
    t_s: float
    since_s: float
    confidence: float
    box: RelativeBox | None
    severity: str | None
    detail: Mapping[str, Json]
    cleared_s: float | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A condition that was seen and did not become an alarm, and the rule's reason."""

    scenario: str
    subject: str
    since_s: float
    t_s: float
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Measure:
    """What a clip's packets say.

    Attributes:
        duration_s: From the first picture to the end of the last.
        rate_hz: Pictures per second by the stamps; None with fewer than two.
        note: What is odd about it; empty when nothing is.
        sha256: Of the file; empty where it is none.
        lying_rate: Whether the rate tag is far from what the stamps say: whoever labelled by picture numbers is wrong.
    """

    duration_s: float
    rate_hz: float | None
    note: str
    sha256: str = ""
    lying_rate: bool = False


@dataclass(frozen=True, slots=True)
class ClipRun:
    """What one clip led to.

    Attributes:
        alarms: In order of time.
        suppressed: In order of time.
        frames: Pictures that were analysed.
        last_s: Time of the last of them.
        notes: What is odd about the clip, and does no harm.
        faults: By scenario (or by "" for all), why it could not be judged.
    """

    alarms: tuple[Alarm, ...]
    suppressed: tuple[Candidate, ...]
    frames: int
    last_s: float
    notes: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)


def measure(camera: CameraSettings) -> Measure:
    """Read a clip's packets without decoding them.

    Raises:
        CaptureError: if it cannot be opened or holds no packet.
    """
    file = Path(camera.stream.analysed_url)
    source = open_source(camera.stream, camera.stream.analysed_url)
    try:
        tagged_hz = source.info.rate_hz
        # What other programs go by where the container states no mean rate.
        guessed = source.stream.guessed_rate if isinstance(source, AvSource) else None
        claimed_hz = tagged_hz or (float(guessed) if guessed else None)
        stamps: list[float] = []
        count = 0
        for packet in source.packets():
            count += 1
            if packet.pts_s is not None:
                stamps.append(packet.pts_s)
    finally:
        source.close()
    if not count:
        raise CaptureError(f"{camera.stream.analysed_url}: found no picture, expected a video")
    sha256 = _hash(file) if file.is_file() else ""
    span_s = max(stamps) - min(stamps) if stamps else 0.0
    if len(stamps) < 2 or span_s <= 0:
        rate_hz = tagged_hz if tagged_hz and tagged_hz > 0 else None
        duration_s = count / rate_hz if rate_hz else 0.0
        note = "has no time stamps; its rate tag is believed"
        return Measure(round(duration_s, 3), None, note, sha256)
    rate_hz = (len(stamps) - 1) / span_s
    note = ""
    lying = claimed_hz is not None and abs(claimed_hz - rate_hz) > LYING_RATE * rate_hz
    if lying:
        note = f"claims {claimed_hz:g} pictures per second, its stamps say {rate_hz:.3g}; the stamps are used"
    return Measure(round(span_s + 1.0 / rate_hz, 3), round(rate_hz, 3), note, sha256, lying)


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def analyse(
    config: Config,
    camera: CameraSettings,
    detectors: Mapping[str, DetectorLike],
    duration_s: float,
    progress: Callable[[float], None] = lambda _seconds: None,
    recorder: Recorder | None = None,
    on_change: Callable[[Change], None] = lambda _change: None,
) -> ClipRun:
    """Run a clip through the engine that the daemon runs, without storm control.

    The reader waits for each picture to be dealt with and is told the next rate before it goes on, so the result
    depends on the clip, the settings and the weights only.

    Args:
        config: The site.
        camera: Settings of the clip; its stream is the clip.
        detectors: By model.
        duration_s: As measured; tells whether the clip broke off.
        progress: Called now and then with the stream seconds that are done.
        recorder: Keeps what a replay needs.
        on_change: Told of everything that the rules decide.
    """
    engine = Engine(config, detectors, [camera], recorder=recorder)
    reader = CameraReader(
        camera.id,
        camera.stream,
        rate_hz=engine.rate_hz(camera.id, START_T),
        pace="virtual",
        start_t=START_T,
    )
    changes: list[Change] = []
    frames, last_t, told_s = 0, START_T, 0.0
    reader.start()
    try:
        while (frame := reader.take(None)) is not None:
            for outcome in engine.step([frame]):
                changes += outcome.changes
                for change in outcome.changes:
                    on_change(change)
            frames, last_t = frames + 1, frame.t
            reader.set_rate(engine.rate_hz(camera.id, frame.t))
            if last_t - START_T - told_s >= PROGRESS_S:
                told_s = last_t - START_T
                progress(told_s)
    finally:
        reader.stop()
    last_s = last_t - START_T
    faults = dict(engine.faults(camera.id))
    patience_s = TAIL_S + 2.0 / max(reader.rate_hz, 0.1)
    if reader.reason:
        faults[""] = reader.reason
    elif not frames:
        faults[""] = f"{camera.stream.analysed_url}: none of its packets gave a picture"
    elif last_s < duration_s - patience_s:
        faults[""] = (
            f"{camera.stream.analysed_url}: no picture after {last_s:.1f} s of {duration_s:.1f} s"
        )
    notes = []
    if reader.counters.corrupt:
        notes.append(f"{reader.counters.corrupt} damaged packets or pictures")
    return decided(changes, frames, _seconds(last_t), tuple(notes), faults)


def decided(
    changes: Sequence[Change],
    frames: int,
    last_s: float,
    notes: tuple[str, ...],
    faults: Mapping[str, str],
) -> ClipRun:
    """What the rules' decisions on one clip come to; for the rest see `ClipRun`."""
    return ClipRun(_alarms(changes), _suppressed(changes), frames, last_s, notes, faults)


def merged(fresh: ClipRun, recorded: ClipRun, scenarios: Collection[str]) -> ClipRun:
    """A run with what `fresh` says of `scenarios` and what `recorded` says of the others."""
    alarms = [a for a in recorded.alarms if a.scenario not in scenarios] + list(fresh.alarms)
    given_up = [c for c in recorded.suppressed if c.scenario not in scenarios]
    return ClipRun(
        tuple(sorted(alarms, key=_alarm_order)),
        tuple(sorted([*given_up, *fresh.suppressed], key=_candidate_order)),
        recorded.frames,
        recorded.last_s,
        recorded.notes,
        recorded.faults,
    )


def _alarm_order(alarm: Alarm) -> tuple[float, str, str]:
    return alarm.t_s, alarm.scenario, alarm.subject


def _candidate_order(candidate: Candidate) -> tuple[float, str, str, float]:
    return candidate.t_s, candidate.scenario, candidate.subject, candidate.since_s


def run_to_json(run: ClipRun) -> dict[str, Any]:
    """A run as JSON."""
    return asdict(run)


def run_from_json(data: Mapping[str, Any]) -> ClipRun:
    """A run from `run_to_json`.

    Raises:
        KeyError or TypeError: if it is none.
    """
    alarms = (
        Alarm(**(item | {"box": None if item["box"] is None else tuple(item["box"])}))
        for item in data["alarms"]
    )
    return ClipRun(
        tuple(alarms),
        tuple(Candidate(**item) for item in data["suppressed"]),
        data["frames"],
        data["last_s"],
        tuple(data["notes"]),
        data["faults"],
    )


def _alarms(changes: Sequence[Change]) -> tuple[Alarm, ...]:
    cleared = {
        (change.key, change.since): change.t
        for change in changes
        if change.kind is ChangeKind.CLEARED
    }
    alarms = []
    for change in changes:
        if change.kind is not ChangeKind.RAISED:
            continue
        end_t = cleared.get((change.key, change.since))
        alarms.append(
            Alarm(
                change.key.scenario,
                change.key.subject,
                _seconds(change.t),
                _seconds(change.since),
                change.confidence,
                change.box,
                change.severity,
                dict(change.detail or {}),
                None if end_t is None else _seconds(end_t),
            )
        )
    return tuple(sorted(alarms, key=_alarm_order))


def _suppressed(changes: Sequence[Change]) -> tuple[Candidate, ...]:
    candidates = [
        Candidate(
            change.key.scenario,
            change.key.subject,
            _seconds(change.since),
            _seconds(change.t),
            change.decision.code,
            change.decision.reason,
        )
        for change in changes
        if change.kind is ChangeKind.SUPPRESSED and change.decision is not None
    ]
    return tuple(sorted(candidates, key=_candidate_order))


def _seconds(t: float) -> float:
    return round(t - START_T, 3)
