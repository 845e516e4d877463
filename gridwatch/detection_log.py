"""The detection log: all that scenarios and rules depend on, frame by frame, without a picture.

A log is one camera's. It is a row of gzip members, so that what a crash cuts off is the last seconds only; unpacked it
is a stream of msgpack objects: a header, then one entry for every analysed frame and every break, then perhaps an end.
Numbers are kept as they were, so that a replay with the same parameters gives the same alarms to the byte.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt
import supervision as sv

from pipeline.analyse.looks import Asked, Shown, ShownFrame
from pipeline.exceptions import ConfigError
from pipeline.observation import Condition, Observation, RelativeBox

__all__ = ["SUFFIX", "Break", "DetectionLog", "Entry", "LogWriter", "read_header", "read_log"]

SUFFIX = ".gwlog"
FORMAT = "gridwatch detections"
VERSION = 1
# Some minutes of one camera; more gains little in compression.
BLOCK_BYTES = 256 * 1024
BLOCK_S = 10.0  # of stream time: so much a crash may cost
LEVEL = 3  # higher levels take twice the time for a tenth less
_ARRAY = 1  # msgpack extension type


@dataclass(frozen=True, slots=True)
class Break:
    """Time without a frame.

    Attributes:
        t: Stream time in seconds.
        interrupted: The stream broke off at `t`; otherwise nothing had come up to `t`.
    """

    t: float
    interrupted: bool


Entry: TypeAlias = ShownFrame | Break


@dataclass(frozen=True, slots=True)
class DetectionLog:
    """A log that was read.

    Attributes:
        header: As given to `LogWriter`.
        entries: In order of time.
        end: As given to `LogWriter.close`; None where the log was cut off or is still being written.
    """

    header: Mapping[str, Any]
    entries: tuple[Entry, ...]
    end: Mapping[str, Any] | None


class LogWriter:
    """Writes one camera's log. Used from one thread.

    Args:
        file: Replaced if it exists.
        camera_id: Whose frames these are.
        header: JSON; what a replay needs beside the entries.

    Raises:
        OSError: from here or any method, if the file cannot be written.
    """

    def __init__(self, file: Path, camera_id: str, header: Mapping[str, Any]) -> None:
        self.file = file
        self.written_bytes = 0
        self._camera_id = camera_id
        self._block = bytearray()
        self._flushed_t = float("-inf")
        self._output = file.open("wb")
        self._add([FORMAT, VERSION, camera_id, json.dumps(header, ensure_ascii=False)])
        try:
            self.flush()
        except OSError:
            self._output.close()
            file.unlink(missing_ok=True)
            raise

    def keep(self, shown: ShownFrame) -> None:
        """Take in an observed frame."""
        entry = [
            "frame",
            shown.t,
            shown.epoch,
            shown.width_px,
            shown.height_px,
            shown.motion,
            shown.still_s,
            {model: _packed(detections) for model, detections in shown.seen.items()},
            {
                name: [
                    one.rate_hz,
                    [[*asked, answer] for asked, answer in one.answers.items()],
                    [_said(observation) for observation in one.observations],
                ]
                for name, one in shown.scenarios.items()
            },
        ]
        self._add(entry)
        if len(self._block) >= BLOCK_BYTES or not 0 <= shown.t - self._flushed_t < BLOCK_S:
            self._flushed_t = shown.t
            self.flush()

    def interrupted(self, camera_id: str, t: float) -> None:  # noqa: ARG002
        """The stream broke off at stream time `t`."""
        self._add(["interrupted", t])

    def silent(self, camera_id: str, t: float) -> None:  # noqa: ARG002
        """Nothing has come up to stream time `t`."""
        self._add(["silent", t])

    def flush(self) -> None:
        """Write what was taken in so far."""
        if self._block:
            member = gzip.compress(bytes(self._block), LEVEL, mtime=0)
            self._output.write(member)
            self._output.flush()
            self.written_bytes += len(member)
            self._block.clear()

    def close(self, end: Mapping[str, Any] | None = None) -> None:
        """Write the rest, and say that this was all."""
        if end is not None:
            self._add(["end", json.dumps(end, ensure_ascii=False)])
        try:
            self.flush()
        finally:
            self._output.close()

    def _add(self, entry: list[Any]) -> None:
        self._block += msgpack.packb(entry, default=_default)


def read_header(file: Path) -> Mapping[str, Any]:
    """The header of a log, without the rest.

    Raises:
        ConfigError: if the file is no detection log, or one of a later version.
    """
    return _header(file, next(_objects(file), None))


def read_log(file: Path) -> DetectionLog:
    """Read a log; of one that was cut off, what is whole.

    Raises:
        ConfigError: if the file is no detection log, or one of a later version.
    """
    objects = _objects(file)
    first = next(objects, None)
    header = _header(file, first)
    camera_id = "" if first is None else str(first[2])
    entries: list[Entry] = []
    end: Mapping[str, Any] | None = None
    try:
        for item in objects:
            if item[0] == "frame":
                entries.append(_frame(camera_id, item))
            elif item[0] == "end":
                end = json.loads(item[1])
            else:
                entries.append(Break(item[1], item[0] == "interrupted"))
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise ConfigError(f"{file}: entry {len(entries) + 1} cannot be read: {error}") from error
    return DetectionLog(header, tuple(entries), end)


def _header(file: Path, first: Any) -> Mapping[str, Any]:  # noqa: ANN401 - msgpack
    if not (isinstance(first, tuple) and len(first) == 4 and first[0] == FORMAT):
        raise ConfigError(f"{file}: is no detection log of gridwatch")
    if first[1] != VERSION:
        raise ConfigError(f"{file}: found a log of version {first[1]}, expected {VERSION}")
    header: Mapping[str, Any] = json.loads(first[3])
    return header


def _objects(file: Path) -> Iterator[Any]:
    """Unpacked objects up to the end or to where the file is cut off or damaged."""
    unpacker = msgpack.Unpacker(
        use_list=False, ext_hook=_array, strict_map_key=False, max_buffer_size=0
    )
    try:
        content = memoryview(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    while content:
        member = zlib.decompressobj(wbits=31)  # gzip
        try:
            unpacker.feed(member.decompress(content))
            yield from unpacker
        except (zlib.error, ValueError, msgpack.UnpackException):
            return
        content = memoryview(member.unused_data)


def _packed(detections: sv.Detections) -> list[Any]:
    names = np.asarray(detections.data.get("class_name", ()), np.str_)
    unique, index = np.unique(names, return_inverse=True)
    return [
        np.asarray(detections.xyxy, np.float32),
        _maybe(detections.confidence, np.float32),
        _maybe(detections.class_id, np.int32),
        _maybe(detections.tracker_id, np.int32),
        unique.tolist(),
        index.astype(np.uint8),
    ]


def _maybe(values: npt.NDArray[Any] | None, dtype: type[np.generic]) -> npt.NDArray[Any] | None:
    return None if values is None else np.asarray(values, dtype)


def _frame(camera_id: str, item: tuple[Any, ...]) -> ShownFrame:
    _, t, epoch, width, height, motion, still_s, seen, scenarios = item
    return ShownFrame(
        camera_id,
        t,
        epoch,
        width,
        height,
        motion,
        still_s,
        {model: _unpacked(*packed) for model, packed in seen.items()},
        {
            name: Shown(
                rate_hz,
                _answers(answers),
                tuple(_observation(name, camera_id, *fields) for fields in said),
            )
            for name, (rate_hz, answers, said) in scenarios.items()
        },
    )


def _said(o: Observation) -> list[Any]:
    detail = json.dumps(dict(o.detail), ensure_ascii=False)  # JSON, so that a list stays one
    return [o.subject, o.t, o.condition.value, o.confidence, o.box, o.severity, detail]


def _observation(
    scenario: str,
    camera_id: str,
    subject: str,
    t: float,
    condition: str,
    confidence: float,
    box: RelativeBox | None,
    severity: str | None,
    detail: str,
) -> Observation:
    return Observation(
        scenario,
        camera_id,
        subject,
        t,
        Condition(condition),
        confidence,
        box,
        severity,
        json.loads(detail),
    )


def _answers(answers: tuple[tuple[str, tuple[float, ...], Any], ...]) -> dict[Asked, Any]:
    return {(name, key): answer for name, key, answer in answers}


def _unpacked(
    xyxy: npt.NDArray[np.float32],
    confidence: npt.NDArray[np.float32] | None,
    class_id: npt.NDArray[np.int32] | None,
    tracker_id: npt.NDArray[np.int32] | None,
    names: tuple[str, ...],
    index: npt.NDArray[np.uint8],
) -> sv.Detections:
    return sv.Detections(
        xyxy=xyxy,
        confidence=confidence,
        class_id=None if class_id is None else class_id.astype(np.int64),
        tracker_id=None if tracker_id is None else tracker_id.astype(np.int64),
        data={"class_name": np.array(names, np.str_)[index]},
    )


def _default(value: Any) -> Any:  # noqa: ANN401 - whatever a scenario measured
    if isinstance(value, np.ndarray):
        header = msgpack.packb([value.dtype.str, value.shape])
        return msgpack.ExtType(_ARRAY, header + np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"found a {type(value).__name__}, expected numbers, text, arrays and tuples")


def _array(code: int, data: bytes) -> Any:  # noqa: ANN401
    if code != _ARRAY:
        raise ValueError(f"found extension type {code}, expected {_ARRAY}")
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(data)
    dtype, shape = unpacker.unpack()
    return np.frombuffer(data, np.dtype(dtype), offset=unpacker.tell()).reshape(shape)
