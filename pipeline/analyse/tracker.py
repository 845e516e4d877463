"""Detections to tracks: ByteTrack on real timestamps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import supervision as sv
from trackers import ByteTrackTracker
from trackers.utils.kalman_filter import KalmanFilter
from trackers.utils.state_representations import BaseStateEstimator

__all__ = ["Tracker"]

_Floats: TypeAlias = npt.NDArray[np.float64]

# A detector wavers between these for one and the same vehicle, so they are one class to the association.
VEHICLE = "vehicle"
SUPER_CLASSES = {"car": VEHICLE, "bus": VEHICLE, "truck": VEHICLE}

LOST_BUFFER_HZ = 30.0  # `trackers` states the life of a lost track in frames of 1/30 s
MIN_IOU = 0.2  # ByteTrack's matching threshold (distance 0.8)
UNTRACKED = -1

# Noise of the Kalman filter, relative to the object's size √(w·h) so that near and far objects are treated alike.
BOX_NOISE = 0.05  # standard deviation of a detected edge; ByteTrack's own value, 1/20 of the height
SPEED_PRIOR = 2.0  # sizes per second: a car at 10 m/s; a walker makes 0.8
SPEED_CHANGE = (
    0.3  # sizes per second, by which a speed wanders within one second: a car braking at 1.5 m/s²
)
SIZE_CHANGE = 0.3  # by which width and height wander within one second when something approaches


class _Estimator(BaseStateEstimator):  # type: ignore[misc]  # `trackers` is not followed by mypy
    """Kalman filter over centre, size and speed of the centre (xc, yc, w, h, vx, vy) in pixels and seconds.

    Speed is a Wiener process, so that one step of 1 s spreads as much as 25 steps of 40 ms: the outcome does not depend
    on the rate. The size has no trend, which would turn a box inside out while its object is hidden.
    """

    _POS_IDX = np.array([0, 1], dtype=np.int64)
    _VEL_IDX = np.array([4, 5], dtype=np.int64)

    def _create_filter(self, bbox: _Floats) -> KalmanFilter:
        kalman = self._init_cv_filter(6, self.bbox_to_measurement(bbox))
        size = float(np.sqrt(kalman.state[2, 0] * kalman.state[3, 0]))
        deviation = size * np.array([BOX_NOISE] * 4 + [SPEED_PRIOR] * 2)
        kalman.state_covariance = np.diag(deviation**2)
        return kalman

    def bbox_to_measurement(self, bbox: _Floats) -> _Floats:
        x1, y1, x2, y2 = bbox
        return np.array([(x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, 1.0), max(y2 - y1, 1.0)])

    def state_to_bbox(self) -> _Floats:
        x, y, w, h = self.kf.state[:4, 0]
        return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])

    def clamp_velocity(self, frame_step: float = 1.0) -> None:
        """Nothing to clamp: the size has no velocity."""

    def predict(self, frame_step: float = 1.0, frame_rate: float | None = None) -> None:  # noqa: ARG002
        """Move on by `frame_step` seconds (the tracker's nominal rate is 1 Hz)."""
        dt, kalman = frame_step, self.kf
        speed, size = (self._size_px() * np.array([SPEED_CHANGE, SIZE_CHANGE])) ** 2
        kalman.transition_mtx = np.eye(6)
        noise = np.diag([speed * dt**3 / 3] * 2 + [size * dt] * 2 + [speed * dt] * 2)
        for place, velocity in zip(self._POS_IDX, self._VEL_IDX, strict=True):
            kalman.transition_mtx[place, velocity] = dt
            noise[place, velocity] = noise[velocity, place] = speed * dt**2 / 2
        kalman.process_noise = noise
        kalman.predict()

    def update(self, bbox: _Floats | None) -> None:
        """Take in a detected box."""
        self.kf.measurement_noise = np.eye(4) * (BOX_NOISE * self._size_px()) ** 2
        super().update(bbox)

    def _size_px(self) -> float:
        return float(np.sqrt(max(self.kf.state[2, 0], 1.0) * max(self.kf.state[3, 0], 1.0)))


class Tracker:
    """Tracks of one model on one camera.

    The method is ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV
    2022) as built by Roboflow in `trackers`, with an own motion model: detections at or over their class's operating
    point are associated first and may begin a track, weaker ones only continue one. Every prediction covers the true
    time since the last update; no frame rate is assumed. Vehicles are associated whatever kind the detector takes them
    for.

    Args:
        thresholds: Operating point per class name; a detection of another class is strong at any confidence.
        lost_s: For how many seconds an object that is not seen keeps its track.
    """

    def __init__(self, thresholds: Mapping[str, float], *, lost_s: float = 5.0) -> None:
        self._thresholds = thresholds
        self._lost_s = lost_s
        self._groups: dict[str, ByteTrackTracker] = {}
        self._ids: dict[tuple[str, int], int] = {}
        self._votes: dict[int, dict[int, float]] = {}
        self._names: dict[int, str] = {}
        self._next_id = 0
        self._t: float | None = None
        self._held_s = 0.0

    def update(self, detections: sv.Detections, t: float) -> sv.Detections:
        """Associate the detections of one picture with the tracks.

        Args:
            detections: With `confidence`, `class_id` and `data["class_name"]`.
            t: Stream time in seconds.

        Returns:
            The same detections in the same order with `tracker_id` (n,) int64, -1 where an object is seen for the
            first time or only weakly. A tracked vehicle has the class it was seen as most (by confidence). A picture
            that is not later than the last one is returned untracked.
        """
        count = len(detections)
        tracked = copy(detections)
        tracked.data = dict(detections.data)
        tracked.tracker_id = np.full(count, UNTRACKED, np.int64)
        if self._t is not None and t <= self._t:
            return tracked
        self._t = t
        names = np.asarray(detections.data.get("class_name", np.empty(0, np.str_)), np.str_)
        groups = np.array([SUPER_CLASSES.get(name, name) for name in names.tolist()], np.str_)
        for group in sorted({*self._groups, *groups.tolist()}):
            index = np.flatnonzero(groups == group)
            tracked.tracker_id[index] = self._associate(group, index, detections, names, t)
        self._vote(tracked, groups)
        self._forget()
        return tracked

    def hold(self, t: float) -> None:
        """Nothing has moved up to stream time `t`: tracks neither move on nor grow old."""
        if self._t is not None and t > self._t:
            self._held_s += t - self._t
            self._t = t

    def reset(self) -> None:
        """Forget all tracks; ids go on, so that none ever means two objects."""
        self._groups.clear()
        self._ids.clear()
        self._votes.clear()

    def _associate(
        self,
        group: str,
        index: npt.NDArray[np.intp],
        detections: sv.Detections,
        names: npt.NDArray[np.str_],
        t: float,
    ) -> npt.NDArray[np.int64]:
        if group not in self._groups:
            self._groups[group] = ByteTrackTracker(
                lost_track_buffer=self._lost_s * LOST_BUFFER_HZ,
                frame_rate=1.0,  # so that its steps are seconds
                track_activation_threshold=0.5,
                high_conf_det_threshold=0.5,
                minimum_consecutive_frames=1,
                minimum_iou_threshold=MIN_IOU,
                state_estimator_class=_Estimator,
            )
        confidence = detections.confidence
        strong = [
            confidence is None or confidence[i] >= self._thresholds.get(names[i], 0.0)
            for i in index
        ]
        # Strong and weak are told by each class's own operating point: to `trackers` they are 1 and 0.
        found = self._groups[group].update(
            sv.Detections(
                xyxy=np.asarray(detections.xyxy[index], np.float64),
                confidence=np.array(strong, np.float64),
                data={"index": np.arange(len(index))},
            ),
            timestamp=t - self._held_s,
        )
        ids = np.full(len(index), UNTRACKED, np.int64)
        if len(found) and found.tracker_id is not None:
            for place, local in zip(found.data["index"], found.tracker_id.tolist(), strict=True):
                if local != UNTRACKED:
                    ids[place] = self._global_id(group, local)
        return ids

    def _global_id(self, group: str, local: int) -> int:
        key = group, local
        if key not in self._ids:
            self._ids[key] = self._next_id
            self._next_id += 1
        return self._ids[key]

    def _vote(self, tracked: sv.Detections, groups: npt.NDArray[np.str_]) -> None:
        """Give every tracked vehicle the class that its track was seen as most."""
        ids, classes, confidence = tracked.tracker_id, tracked.class_id, tracked.confidence
        if ids is None or classes is None or not len(ids):
            return
        classes, names = classes.copy(), np.array(tracked.data["class_name"])
        self._names |= dict(zip(classes.tolist(), names.tolist(), strict=True))
        for i in np.flatnonzero((ids != UNTRACKED) & (groups == VEHICLE)):
            votes = self._votes.setdefault(int(ids[i]), {})
            seen = int(classes[i])
            votes[seen] = votes.get(seen, 0.0) + (
                1.0 if confidence is None else float(confidence[i])
            )
            classes[i] = max(votes, key=lambda choice: votes[choice])  # of equals the earlier seen
            names[i] = self._names[int(classes[i])]
        tracked.class_id, tracked.data["class_name"] = classes, names

    def _forget(self) -> None:
        alive = {
            (group, track.tracker_id)
            for group, tracker in self._groups.items()
            for track in tracker.tracks
        }
        for key in [key for key in self._ids if key not in alive]:
            self._votes.pop(self._ids.pop(key), None)
