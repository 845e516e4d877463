"""A camera's scenarios once more, from what was kept of its frames instead of from pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import supervision as sv

from pipeline.analyse.analyser import AnyScenario, CameraAnalyser
from pipeline.analyse.looks import LooksAgain, ShownFrame
from pipeline.analyse.motion import Motion
from pipeline.analyse.scenario import CameraContext
from pipeline.exceptions import NotKeptError
from pipeline.frame import Frame
from pipeline.observation import Observation

__all__ = ["ReplayAnalyser", "black_frame"]

_NO_MASK = np.zeros((0, 0), np.bool_)
_BLACK = np.zeros((1, 1, 3), np.uint8)
# Below this a higher rate is rounding, not a wish.
_FASTER = 1.01


def black_frame(shown: ShownFrame) -> Frame:
    """The frame that was shown, black; its pixels take no memory."""
    image = np.broadcast_to(_BLACK, (shown.height_px, shown.width_px, 3))
    return Frame(shown.camera_id, shown.t, image, epoch=shown.epoch)


class ReplayAnalyser(CameraAnalyser):
    """Shows scenarios the frames that they were shown, with the same tracks and the same measurements.

    Motion, inference and sampling are as they were: parameters that steer them change nothing here. How long other
    parameters would have looked more often is counted.

    Args:
        camera: The camera.
        scenarios: Its scenarios with the parameters to try.
        thresholds: Operating point per class, by model.

    Attributes:
        shown: The frame to come; set before `plan`.
        denser_s: By scenario, seconds of stream time in which it would have looked more often than it did.
    """

    def __init__(
        self,
        camera: CameraContext,
        scenarios: Sequence[AnyScenario],
        thresholds: Mapping[str, Mapping[str, float]],
    ) -> None:
        super().__init__(camera, scenarios, thresholds)
        self.shown: ShownFrame | None = None
        self.denser_s: dict[str, float] = {}
        self._last_t = math.nan
        self._hurried: list[str] = []

    def plan(self, frame: Frame) -> frozenset[str]:
        """No model sees anything."""
        self._notice_view(frame)
        return frozenset()

    def observe(self, frame: Frame, results: Mapping[str, sv.Detections]) -> list[Observation]:  # noqa: ARG002
        """What the scenarios that were due then say now.

        Raises:
            NotKeptError: if one of them measures what it did not measure then.
        """
        shown = self.shown
        if shown is None or shown.t != frame.t:
            raise ValueError(
                f"camera {self._camera.id}: found an unplanned frame, expected `shown`"
            )
        dt = frame.t - self._last_t
        if dt > 0:
            for scenario in self._hurried:
                self.denser_s[scenario] = self.denser_s.get(scenario, 0.0) + dt
        self._last_t, self._hurried = frame.t, []
        for model, detections in shown.seen.items():
            sight = self._sight_of(model, frame.t)
            sight.detections, sight.t = detections, frame.t
        motion = Motion(shown.motion, _NO_MASK, shown.still_s)
        observations: list[Observation] = []
        for r in self._live():
            then = shown.scenarios.get(r.scenario.id)
            if then is None:
                continue
            scene = self._scene(r.scenario, frame, motion, LooksAgain(then.answers))
            try:
                observations += self._observe(r, scene)
            except NotKeptError as error:
                raise NotKeptError(f"{r.scenario.id}: {error}") from error
            if self._need(r, frame.t).rate_hz > _FASTER * then.rate_hz:
                self._hurried.append(r.scenario.id)
        return observations
