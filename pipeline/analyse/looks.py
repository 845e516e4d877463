"""What scenarios measure in a picture, asked through one door, so that it can be kept and asked again without one.

A scenario that reads pixels only inside `Scene.look` can be replayed from a detection log: there a look is answered
from what was kept, and the picture is black.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import supervision as sv

from pipeline.exceptions import NotKeptError
from pipeline.observation import Observation

__all__ = ["Asked", "KeptLooks", "Look", "LooksAgain", "Shown", "ShownFrame", "look_now"]

T = TypeVar("T")

Asked: TypeAlias = tuple[str, tuple[float, ...]]
"""Name of a measurement, and what it depends on beside the picture and the scenario's own past (a box)."""


class Look(Protocol):
    """How a scenario reads pixels."""

    def __call__(self, name: str, measure: Callable[[], T], key: tuple[float, ...] = ()) -> T:
        """What `measure` gives.

        Args:
            name: Of the measurement.
            measure: Reads the picture; gives None, a number, an array of fixed dtype or nested tuples of these. What it
                leaves behind may serve later measurements and nothing else.
            key: What tells two measurements of one name on one frame apart.
        """


def look_now(name: str, measure: Callable[[], T], key: tuple[float, ...] = ()) -> T:  # noqa: ARG001
    """Measures and keeps nothing."""
    return measure()


class KeptLooks:
    """Measures, and keeps what one scenario asked about one frame; the same question is measured once.

    Attributes:
        answers: By question, in the order of asking.
    """

    __slots__ = ("answers",)

    def __init__(self) -> None:
        self.answers: dict[Asked, Any] = {}

    def __call__(self, name: str, measure: Callable[[], T], key: tuple[float, ...] = ()) -> T:
        """What was measured."""
        asked = name, key
        if asked not in self.answers:
            self.answers[asked] = measure()
        answer: T = self.answers[asked]
        return answer


class LooksAgain:
    """Answers from what was kept.

    Args:
        answers: As `KeptLooks` kept them.
    """

    __slots__ = ("_answers",)

    def __init__(self, answers: Mapping[Asked, Any]) -> None:
        self._answers = answers

    def __call__(self, name: str, measure: Callable[[], T], key: tuple[float, ...] = ()) -> T:  # noqa: ARG002
        """What was kept.

        Raises:
            NotKeptError: if it was not asked then.
        """
        try:
            answer: T = self._answers[name, key]
        except KeyError:
            raise NotKeptError(f"{name} was not measured") from None
        return answer


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What one scenario made of a frame's pixels.

    Attributes:
        rate_hz: Frames per second that it wanted from then on.
        answers: What it measured.
        observations: What it said.
    """

    rate_hz: float
    answers: Mapping[Asked, Any]
    observations: Sequence[Observation] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ShownFrame:
    """One analysed frame without its pixels: all that its scenarios and their rules depend on.

    Attributes:
        camera_id: The camera's id.
        t: Stream time in seconds.
        epoch: Number of reconnects.
        width_px: Of the analysed picture.
        height_px: Of the analysed picture.
        motion: Share of the picture that moved.
        still_s: Seconds for which nothing had moved.
        seen: Tracked detections by model, of the models that saw this frame.
        scenarios: By scenario that was shown the frame.
    """

    camera_id: str
    t: float
    epoch: int
    width_px: int
    height_px: int
    motion: float
    still_s: float
    seen: Mapping[str, sv.Detections]
    scenarios: Mapping[str, Shown]
