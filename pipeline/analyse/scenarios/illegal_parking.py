"""A vehicle that stands where it must not.

The subject is a *stay*: one vehicle at one place in one zone. It must outlive what happens to detections on a street:
trackers swap ids, buses pass in front, detectors flicker, streams break off, hosts restart. So a stay is not a track;
it is a box, a small reference picture of that box, and the time since which it has been there.

Every inferred frame, vehicle boxes are given to the nearest places. For a place,

* a box that stays within a fraction of its own size *stands*; seen so for a few seconds, it is a stay;
* a box that has the place but looks like another vehicle, when the picture did not show how it got there, is another
  vehicle: a queue that rolls on by car lengths between two key frames leaves several short stays, not a long one;
* no box, but the reference picture still there: the detector missed it, the vehicle stands;
* no box and something else before it: unknown;
* no box and another picture that itself keeps still: the place is empty.

Speeds and tolerances are in box sizes and seconds, so that neither the resolution nor the frame rate matters; medians
of recent boxes take out the jitter of small detectors.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar, TypeAlias

import cv2
import numpy as np
from pydantic import Field

from pipeline.analyse.appearance import (
    Hidden,
    Patch,
    blend,
    covered_share,
    from_text,
    hidden_by,
    likeness,
    looks_settled,
    take_patch,
    to_text,
)
from pipeline.analyse.geometry import (
    Region,
    as_box,
    bottom_strip,
    box_area,
    box_shift,
    median_box,
    relative_boxes,
    size_ratio,
)
from pipeline.analyse.scenario import CameraContext, Need, Scenario, ScenarioParameters, Scene
from pipeline.observation import Condition, Json, Observation, RelativeBox
from pipeline.units import Duration, Polygon, ZoneName

__all__ = ["IllegalParking", "IllegalParkingParameters"]

_PatchOf: TypeAlias = Callable[[RelativeBox], Patch]
"""The small picture of a box in the frame at hand."""

# Two boxes on one vehicle (car and truck at once); cars side by side overlap less, even seen along the row.
DOUBLE_IOU = 0.6
# Wheels stand in the lowest third of a box, whatever the camera's height.
GROUND_SHARE = 1 / 3
ENTER_GROUND = 0.5
KEEP_GROUND = 0.3
# A box within a quarter of its size is at the same place; small detectors jitter by a tenth.
SAME_PLACE_SHIFT = 0.25
# Moving up in a bay is less than this; a queue rolls on by a whole car or more.
MOVE_UP_SHIFT = 0.6
# All moving up together: further, and it no longer stands where it stood.
TOTAL_SHIFT = 1.0
SAME_SIZE = 0.5
# Long enough that a vehicle which slows down for a bump does not count; short against any dwell.
SETTLE_S = 3.0
# Speed is measured over at least this long.
SPEED_WINDOW_S = 3.0
# Sightings closer than this show how a vehicle moves; wider apart, another may have taken the place meanwhile.
DENSE_S = 0.5
# Without a track, such a box is the same vehicle when it is this near after so short a time.
DENSE_SHIFT = 0.15
# So long after a sighting a track that turns up elsewhere means that the vehicle drove there.
TRACK_S = 3.0
# Likeness (see `appearance`), as seen on a crossroads camera: a standing car keeps 0.85 to 0.99 from second to second;
# the next car of the queue in its place has up to 0.57 in full view, and once 0.77 with half of it covered.
SAME_LIKENESS = 0.7
OTHER_LIKENESS = 0.45
# Once it was out of sight more is asked than of a car that has been held all along.
RESUME_LIKENESS = 0.6
# The reference follows the light within minutes.
LIGHT_S = 60.0
COVERED_SHARE = 0.5
# Another picture that keeps still this long is the empty place, not somebody walking through it.
EMPTY_S = 2.0
# A place where the detector finds something in under a fifth of the frames is not held by its picture alone.
SEEN_SHARE = 0.2
SEEN_MEMORY_S = 60.0
# What one frame may say of the time before it.
SEEN_STEP_S = 10.0
# After clear_after the rule needs one more observation; margin for slow key frames comes from waiting for it.
CLOSING_S = 5.0
# The whole picture became another: lamps, infra-red at dusk, a turned camera. Traffic alone leaves more likeness.
VIEW_LIKENESS = 0.6
WHOLE_PICTURE: RelativeBox = (0.0, 0.0, 1.0, 1.0)
# A camera sees fewer vehicles in its zones; the oldest unsettled places go first.
MAX_PLACES = 64


class IllegalParkingParameters(ScenarioParameters):
    """Parameters of `illegal_parking`; the dwell is `raise_after`.

    Attributes:
        zones: Where vehicles must not stand: polygons on the ground, by name.
        classes: What counts as a vehicle; ``ebike`` and ``bicycle`` may be added.
        still_speed: Box sizes per second up to which a vehicle stands.
        min_box_area: Smallest box that counts, as a share of the picture.
        min_strong_share: Share of the sightings of a stay that must reach the operating point.
    """

    raise_after: Duration = 120.0
    min_ratio: float = Field(default=0.8, gt=0, le=1)
    clear_after: Duration = 15.0
    cooldown: Duration = 60.0
    max_gap: Duration = 60.0
    zones: dict[ZoneName, Polygon] = Field(min_length=1)
    classes: tuple[str, ...] = Field(default=("car", "bus", "truck"), min_length=1)
    still_speed: float = Field(default=0.08, gt=0, le=1)
    # 4.5 % of width and height is some 18 px of a 416 px model input; below, boxes flicker and cars are not told apart.
    min_box_area: float = Field(default=0.002, ge=0, lt=1)
    # A vehicle in good view reaches the operating point in most frames. Road signs, markings and streams of far traffic
    # do now and then: with a half the false stays of fifteen real clips fell from 5 to 1 (0.3: 3), under the weights
    # before from 3 to 1; a stay matched nine seconds after its event went with them. Two folds of so few events do not
    # agree on a value.
    min_strong_share: float = Field(default=0.5, ge=0, le=1)


@dataclass(slots=True)
class _Vehicle:
    """One vehicle box of an inferred frame."""

    box: RelativeBox
    name: str
    confidence: float
    tracker_id: int
    strong: bool


@dataclass(slots=True, eq=False)
class _Place:
    """A vehicle that may be standing; a stay once it is `settled`.

    `home` is where it stands and `reference` how that looks; `since` is when it was first seen there. `other` is what
    the place looked like when it looked different. From `gone_since` on it looks empty; once it `left` it stays ended.
    `clear_from` is when the end was first told without a break since.
    """

    zone: str
    home: RelativeBox
    reference: Patch
    since: float
    seen_t: float
    key: str | None = None
    first: RelativeBox = (0.0, 0.0, 0.0, 0.0)
    tracker_id: int = -1
    votes: dict[str, float] = field(default_factory=dict)
    confidence: float = 0.0
    sightings: int = 1
    strong: int = 1
    seen_share: float = 1.0
    recent: deque[tuple[float, RelativeBox]] = field(default_factory=deque)
    ground_share: float = 0.0
    likeness: float | None = None
    covered: float = 0.0
    other: Patch | None = None
    other_since: float = 0.0
    gone_since: float | None = None
    left: bool = False
    clear_from: float | None = None
    condition: Condition = Condition.UNKNOWN
    reason: str = ""
    told: bool = False

    @property
    def settled(self) -> bool:
        return self.key is not None

    @property
    def name(self) -> str:
        return max(self.votes, key=lambda name: self.votes[name], default="vehicle")

    @property
    def last(self) -> RelativeBox:
        return self.recent[-1][1]

    def box(self) -> RelativeBox:
        """Median of the recent boxes."""
        return median_box([box for _, box in self.recent])

    def sight(self, t: float, vehicle: _Vehicle) -> None:
        self.recent.append((t, vehicle.box))
        while len(self.recent) > 2 and self.recent[1][0] <= t - SPEED_WINDOW_S:
            self.recent.popleft()
        self.seen_t, self.tracker_id = t, vehicle.tracker_id
        self.sightings += 1
        self.strong += vehicle.strong
        self.votes[vehicle.name] = self.votes.get(vehicle.name, 0.0) + vehicle.confidence
        self.confidence += 0.3 * (vehicle.confidence - self.confidence)

    def speed(self) -> float | None:
        """Box sizes per second between the medians of the older and the newer half of the recent boxes."""
        half = len(self.recent) // 2
        if half == 0:
            return None
        rows = list(self.recent)
        older, newer = rows[:half], rows[-half:]
        dt = fmean(t for t, _ in newer) - fmean(t for t, _ in older)
        if dt <= 0:
            return None
        before = median_box([box for _, box in older])
        return box_shift(before, median_box([box for _, box in newer])) / dt

    def stand_anew(self, patch_of: _PatchOf) -> None:
        """It moved: it stands, if so, where it was seen last, since the first of the last boxes there."""
        boxes = list(self.recent)
        begin = len(boxes) - 1
        while begin > 0 and box_shift(boxes[begin - 1][1], self.last) <= SAME_PLACE_SHIFT:
            begin -= 1
        self.since = boxes[begin][0]
        self.home, self.reference = self.last, patch_of(self.last)
        self.sightings = len(boxes) - begin
        self.strong = min(self.strong, self.sightings)
        self.other = None


class IllegalParking(Scenario[IllegalParkingParameters]):
    """Holds for ``zone:<name>/stay:<first seen>`` while that vehicle stands there."""

    id: ClassVar[str] = "illegal_parking"
    title: ClassVar[dict[str, str]] = {"zh": "车辆违规停放", "en": "Illegally parked vehicle"}
    Parameters: ClassVar[type[ScenarioParameters]] = IllegalParkingParameters
    model: ClassVar[str | None] = "vehicles"
    replayed: ClassVar[frozenset[str] | None] = frozenset(
        {
            "severity",
            "active",
            "zones",
            "classes",
            "still_speed",
            "min_box_area",
            "min_strong_share",
        }
    )
    reads_rule: ClassVar[frozenset[str]] = frozenset({"clear_after", "max_gap"})

    def __init__(self, camera: CameraContext, parameters: IllegalParkingParameters) -> None:
        super().__init__(camera, parameters)
        self._zones = {name: Region(points) for name, points in parameters.zones.items()}
        self._places: list[_Place] = []
        self._inferred_t = -math.inf
        self._reported_t = -math.inf
        self._view: Patch | None = None
        self._view_obstacles: list[RelativeBox] = []
        self._view_changed_t = -math.inf

    def need(self, t: float) -> Need:  # noqa: ARG002
        """Some twenty looks per dwell, 0.2 to 2 Hz; a place that is not settled is inferred again."""
        rate_hz = min(2.0, max(0.2, 20.0 / max(self.parameters.raise_after, 1.0)))
        return Need(rate_hz, inference=any(not place.settled for place in self._places))

    def interrupt(self, t: float) -> list[Observation]:
        """All stays are unknown until the stream returns."""
        for place in self._places:
            place.clear_from = None
        return [
            self._observation(place, t, Condition.UNKNOWN, "stream interrupted")
            for place in self._places
            if place.settled and place.gone_since is None
        ]

    def observe(self, scene: Scene) -> list[Observation]:
        """One observation per stay; a stay that has just settled is also reported for the time it was first seen."""
        t = scene.frame.t
        if scene.detections is None:
            for place in self._places:
                place.clear_from = None
            return [
                self._observation(place, t, Condition.UNKNOWN, "model unavailable")
                for place in self._places
                if place.settled
            ]
        vehicles, obstacles = self._read(scene)
        self._watch_view(_patches(scene), obstacles, t)
        fresh_s = min(scene.detections_t - self._inferred_t, SEEN_STEP_S)
        self._inferred_t = max(self._inferred_t, scene.detections_t)
        matched = self._match(vehicles, t)
        for place in list(self._places):
            vehicle = matched.get(id(place))
            others = [box for box in obstacles if vehicle is None or box != vehicle.box]
            hidden = hidden_by(place.home, others)
            place.covered = covered_share(hidden)
            if vehicle is not None:
                self._sighted(place, vehicle, scene, hidden, fresh_s=fresh_s)
            else:
                self._unsighted(place, vehicles, scene, hidden, fresh_s=fresh_s)
        taken = {id(vehicle) for vehicle in matched.values()}
        for vehicle in vehicles:
            if id(vehicle) not in taken:
                self._open(vehicle, scene)
        self._forget(t)
        return self._report(t)

    def _watch_view(self, patch_of: _PatchOf, obstacles: list[RelativeBox], t: float) -> None:
        """Note when the picture around the vehicles became another one."""
        view = patch_of(WHOLE_PICTURE)
        moving = [*obstacles, *(place.home for place in self._places)]
        if self._view is not None:
            hidden = hidden_by(WHOLE_PICTURE, moving + self._view_obstacles)
            alike = likeness(self._view, view, hidden)
            if alike is not None and alike < VIEW_LIKENESS:
                self._view_changed_t = t
        self._view, self._view_obstacles = view, obstacles

    # -- reading and matching ------------------------------------------------------------------------------------

    def _read(self, scene: Scene) -> tuple[list[_Vehicle], list[RelativeBox]]:
        """Vehicles on the ground of a zone, doubles merged, and the boxes of everything that may stand before one."""
        detections = scene.detections
        if detections is None or len(detections) == 0:
            return [], []
        frame = scene.frame
        boxes = relative_boxes(detections.xyxy, frame.width_px, frame.height_px)
        confidences = (
            detections.confidence
            if detections.confidence is not None
            else np.ones(len(detections), dtype=np.float32)
        )
        corners = np.asarray(detections.xyxy, np.float32)
        sizes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        keep = cv2.dnn.NMSBoxes(sizes.tolist(), confidences.tolist(), 0.0, DOUBLE_IOU)
        names = detections.data["class_name"]
        ids = detections.tracker_id
        vehicles: list[_Vehicle] = []
        obstacles: list[RelativeBox] = []
        for i in sorted(keep):
            box, name, confidence = boxes[i], str(names[i]), float(confidences[i])
            obstacles.append(box)
            if name in self.parameters.classes and box_area(box) >= self.parameters.min_box_area:
                tracker_id = int(ids[i]) if ids is not None else -1
                strong = confidence >= scene.thresholds.get(name, 0.0)
                vehicles.append(_Vehicle(box, name, confidence, tracker_id, strong))
        return vehicles, obstacles

    def _match(self, vehicles: list[_Vehicle], t: float) -> dict[int, _Vehicle]:
        """Vehicles by the id() of their place: nearest pairs first, a track that goes on before others."""
        pairs = []
        for place in self._places:
            if place.left:
                continue
            for vehicle in vehicles:
                shift = box_shift(place.last, vehicle.box)
                if shift <= MOVE_UP_SHIFT and size_ratio(place.last, vehicle.box) >= SAME_SIZE:
                    goes_on = self._goes_on(place, vehicle, t)
                    pairs.append((shift - goes_on * SAME_PLACE_SHIFT, place, vehicle))
        pairs.sort(key=lambda pair: pair[0])
        matched: dict[int, _Vehicle] = {}
        taken: set[int] = set()
        for _, place, vehicle in pairs:
            if id(place) not in matched and id(vehicle) not in taken:
                matched[id(place)] = vehicle
                taken.add(id(vehicle))
        return matched

    @staticmethod
    def _goes_on(place: _Place, vehicle: _Vehicle, t: float) -> bool:
        """Whether the vehicle's track is the place's, without a gap in which ids might be mixed up."""
        same_track = vehicle.tracker_id >= 0 and vehicle.tracker_id == place.tracker_id
        return same_track and t - place.seen_t <= DENSE_S

    def _zone_of(self, box: RelativeBox) -> tuple[str, float]:
        """The zone with most of the box's ground, and how much."""
        ground = bottom_strip(box, GROUND_SHARE)
        shares = {name: region.share(ground) for name, region in self._zones.items()}
        name = max(shares, key=lambda zone: shares[zone])
        return name, shares[name]

    def _open(self, vehicle: _Vehicle, scene: Scene) -> None:
        """A vehicle at no known place: it may have begun to stand."""
        zone, share = self._zone_of(vehicle.box)
        if share < ENTER_GROUND or not vehicle.strong:
            return
        t = scene.frame.t
        place = _Place(zone, vehicle.box, _patches(scene)(vehicle.box), since=t, seen_t=t)
        place.tracker_id, place.ground_share = vehicle.tracker_id, share
        place.votes = {vehicle.name: vehicle.confidence}
        place.confidence = vehicle.confidence
        place.recent.append((t, vehicle.box))
        self._places.append(place)

    # -- following one place -------------------------------------------------------------------------------------

    def _sighted(
        self, place: _Place, vehicle: _Vehicle, scene: Scene, hidden: Hidden, *, fresh_s: float
    ) -> None:
        """A vehicle box at the place: the same vehicle, moving up, or another one?"""
        t, patch_of = scene.frame.t, _patches(scene)
        gap_s = t - place.seen_t
        now = patch_of(place.home)
        place.likeness = likeness(place.reference, now, hidden)
        if place.gone_since is not None and not self._is_back(place, vehicle):
            place.left = True
            self._open(vehicle, scene)
            return
        watched = self._goes_on(place, vehicle, t) or (
            gap_s <= DENSE_S and box_shift(place.last, vehicle.box) <= DENSE_SHIFT
        )
        near = box_shift(place.home, vehicle.box) <= SAME_PLACE_SHIFT
        if not watched and near and place.seen_t < self._view_changed_t:
            place.reference, place.other, place.likeness = now, None, None
        elif watched and (near or not place.settled):
            pass
        elif not self._is_same(place, vehicle, patch_of):
            if near or not place.settled:
                self._doubt(place, vehicle, scene, now, hidden)
            else:  # something that drives past took over the box, and often the track, of what it hides
                self._open(vehicle, scene)
                hidden = hidden | hidden_by(place.home, [vehicle.box])
                self._unsighted(place, [], scene, hidden, fresh_s=fresh_s)
            return
        if fresh_s > 0:
            place.sight(t, vehicle)
            place.seen_share += (1 - place.seen_share) * _weight(fresh_s, SEEN_MEMORY_S)
        place.seen_t = t
        zone_share = self._zones[place.zone].share(bottom_strip(place.box(), GROUND_SHARE))
        place.ground_share = zone_share
        if place.settled:
            self._stand(place, now, hidden, patch_of, gap_s, t)
        else:
            self._settle(place, patch_of, t, sure=watched or place.likeness is not None)

    def _is_back(self, place: _Place, vehicle: _Vehicle) -> bool:
        """Whether a place that looked empty shows the same again: the vehicle was only hidden or missed."""
        same = place.likeness is None or place.likeness >= SAME_LIKENESS
        return same and box_shift(place.home, vehicle.box) <= SAME_PLACE_SHIFT

    def _is_same(self, place: _Place, vehicle: _Vehicle, patch_of: _PatchOf) -> bool:
        """Whether a box seen after a gap is the place's vehicle, there or moved up."""
        shift = box_shift(place.home, vehicle.box)
        if place.likeness is None:
            return shift <= SAME_PLACE_SHIFT
        if shift <= SAME_PLACE_SHIFT:
            if not place.settled:
                return place.likeness >= SAME_LIKENESS
            held = place.condition is Condition.HOLDS
            return place.likeness >= (OTHER_LIKENESS if held else RESUME_LIKENESS)
        moved = likeness(place.reference, patch_of(vehicle.box))
        return place.likeness >= SAME_LIKENESS or (moved is not None and moved >= SAME_LIKENESS)

    def _doubt(
        self, place: _Place, vehicle: _Vehicle, scene: Scene, now: Patch, hidden: Hidden
    ) -> None:
        """The box is there, the vehicle looks like another: unknown once, another vehicle when it stays so."""
        t = scene.frame.t
        if not place.settled:
            self._places.remove(place)
            self._open(vehicle, scene)
            return
        if place.other is None or not looks_settled(place.other, now, hidden):
            place.other, place.other_since = now, t
        if t - place.other_since < EMPTY_S:
            place.condition, place.reason = Condition.UNKNOWN, "looks different"
            return
        place.condition, place.reason = Condition.CLEAR, "another vehicle"
        place.gone_since, place.left = place.other_since, True
        self._open(vehicle, scene)

    def _settle(self, place: _Place, patch_of: _PatchOf, t: float, *, sure: bool) -> None:
        """A stay begins once the vehicle was seen standing for a while; once more where only boxes speak for it."""
        box = place.box()
        if box_shift(place.home, box) > SAME_PLACE_SHIFT:
            place.stand_anew(patch_of)
            return
        speed = place.speed()
        if (
            t - place.since >= SETTLE_S
            and place.sightings >= (2 if sure else 3)
            and speed is not None
            and speed <= self.parameters.still_speed
            and place.ground_share >= ENTER_GROUND
        ):
            place.key = self._new_key(place)
            place.first = place.home = box
            place.reference = patch_of(box)
            place.condition, place.reason = Condition.HOLDS, "detection"

    def _stand(
        self,
        place: _Place,
        now: Patch,
        hidden: Hidden,
        patch_of: _PatchOf,
        gap_s: float,
        t: float,
    ) -> None:
        """The stay's vehicle is seen: does it stand, move up, or drive off?"""
        place.gone_since = None
        box = place.box()
        shift = box_shift(place.home, box)
        speed = place.speed()
        if (
            shift > MOVE_UP_SHIFT
            or box_shift(place.first, box) > TOTAL_SHIFT
            or place.ground_share < KEEP_GROUND
        ):
            self._drove_off(place, t)
            return
        if shift > SAME_PLACE_SHIFT or (speed is not None and speed > self.parameters.still_speed):
            place.condition, place.reason = Condition.UNKNOWN, "moves"
            still = speed is not None and speed <= self.parameters.still_speed / 2
            if still and t - place.recent[0][0] >= SPEED_WINDOW_S:
                place.home, place.reference = box, patch_of(box)
                place.condition, place.reason = Condition.HOLDS, "detection"
            return
        if place.likeness is None and covered_share(hidden) >= COVERED_SHARE:
            # All of the place lies under other vehicles' boxes: in dense traffic there is always some box there.
            place.condition, place.reason = Condition.UNKNOWN, "covered"
            return
        place.condition, place.reason = Condition.HOLDS, "detection"
        if place.likeness is None or place.likeness >= OTHER_LIKENESS:
            place.other = None
            place.reference = blend(place.reference, now, _weight(gap_s, LIGHT_S), hidden)
        elif place.other is None or not looks_settled(place.other, now, hidden):
            place.other, place.other_since = now, t
        elif t - place.other_since >= SETTLE_S:
            # Watched all the time it did not leave, yet it looks different: the light has changed.
            place.reference, place.other = now, None

    def _unsighted(
        self,
        place: _Place,
        vehicles: list[_Vehicle],
        scene: Scene,
        hidden: Hidden,
        *,
        fresh_s: float,
    ) -> None:
        """No vehicle box at the place: missed, covered or gone?"""
        t = scene.frame.t
        if place.left:
            return
        now = _patches(scene)(place.home)
        whole = likeness(place.reference, now)
        rest = likeness(place.reference, now, hidden)
        place.likeness = max((x for x in (whole, rest) if x is not None), default=None)
        if fresh_s > 0:
            place.seen_share *= 1 - _weight(fresh_s, SEEN_MEMORY_S)
        if place.likeness is not None and place.likeness >= SAME_LIKENESS:
            place.other, place.gone_since = None, None
            if place.seen_share >= SEEN_SHARE:
                place.condition, place.reason = Condition.HOLDS, "picture"
            else:
                place.condition, place.reason = Condition.UNKNOWN, "seldom detected"
            return
        place.covered = covered_share(hidden)
        if place.covered >= COVERED_SHARE:
            place.condition, place.reason = Condition.UNKNOWN, "covered"
            return
        if self._seen_elsewhere(place, vehicles, scene):
            self._drove_off(place, t)
            return
        if not place.settled:
            self._places.remove(place)
            return
        if place.other is None or not looks_settled(place.other, now, hidden):
            place.other, place.other_since = now, t
        lost = t - place.seen_t > self.parameters.max_gap
        if place.seen_t < self._view_changed_t and not lost:
            place.condition, place.reason = Condition.UNKNOWN, "the whole view has changed"
        elif t - place.other_since >= EMPTY_S or lost or place.gone_since is not None:
            place.condition, place.reason = Condition.CLEAR, "place is empty"
            place.gone_since = place.other_since if place.gone_since is None else place.gone_since
        else:
            place.condition, place.reason = Condition.UNKNOWN, "not seen"

    @staticmethod
    def _seen_elsewhere(place: _Place, vehicles: list[_Vehicle], scene: Scene) -> bool:
        """Whether the place's track, with the place's vehicle, is somewhere else now."""
        if scene.frame.t - place.seen_t > TRACK_S or place.tracker_id < 0:
            return False
        for vehicle in vehicles:
            if vehicle.tracker_id == place.tracker_id:
                alike = likeness(place.reference, _patches(scene)(vehicle.box))
                return alike is None or alike >= OTHER_LIKENESS
        return False

    def _drove_off(self, place: _Place, t: float) -> None:
        place.condition, place.reason = Condition.CLEAR, "drove off"
        place.gone_since, place.left = t, True

    # -- reporting -----------------------------------------------------------------------------------------------

    def _forget(self, t: float) -> None:
        """Drop places at which nothing came to stand, and the oldest when there are too many."""
        for place in list(self._places):
            if place.settled:
                if place.gone_since is not None:
                    place.left |= t - place.gone_since >= self.parameters.clear_after
            elif place.left or t - place.seen_t > self.parameters.max_gap:
                self._places.remove(place)
        while len(self._places) > MAX_PLACES:
            self._places.remove(min(self._places, key=lambda p: (p.settled, p.seen_t)))

    def _report(self, t: float) -> list[Observation]:
        """What there is to tell of every stay. An ended one is told until the rule can have closed it."""
        if t - self._reported_t > self.parameters.max_gap:
            for place in self._places:
                place.clear_from = None
        self._reported_t = t
        active = self.is_active(t)
        observations: list[Observation] = []
        for place in list(self._places):
            if not place.settled:
                continue
            condition, reason = place.condition, place.reason
            least = self.parameters.min_strong_share * place.sightings
            if condition is Condition.HOLDS and place.strong < least:
                condition, reason = Condition.UNKNOWN, "weakly detected"
            if not active:
                condition, reason = Condition.CLEAR, "outside active hours"
            if not place.told and condition is Condition.HOLDS and self.is_active(place.since):
                # It has stood since it was first seen; the rule dates the dwell from there.
                observations.append(self._observation(place, place.since, condition, reason))
            place.told = True
            observations.append(self._observation(place, t, condition, reason))
            if not place.left:
                place.clear_from = None
            elif place.clear_from is None:
                place.clear_from = t
            elif t - place.clear_from >= self.parameters.clear_after + CLOSING_S:
                self._places.remove(place)
        return observations

    def _new_key(self, place: _Place) -> str:
        """The first free tenth of a second from when it was first seen: a row may be there from the first frame."""
        taken = {p.key for p in self._places}
        tenths = round(place.since * 10)
        while (key := f"zone:{place.zone}/stay:{tenths // 10}.{tenths % 10}") in taken:
            tenths += 1
        return key

    def _observation(
        self, place: _Place, t: float, condition: Condition, reason: str
    ) -> Observation:
        speed = place.speed()
        detail: dict[str, Json] = {
            "zone": place.zone,
            "class": place.name,
            "since_s": round(place.since, 3),
            "stood_s": round(max(0.0, t - place.since), 1),
            "speed": None if speed is None else round(speed, 4),
            "likeness": None if place.likeness is None else round(place.likeness, 3),
            "ground_share": round(place.ground_share, 3),
            "covered_share": round(place.covered, 3),
        }
        # A word that changes is news to the rule; whether the detector or the picture confirms a stay is none.
        detail |= {"confirmed_by": [reason]} if condition is Condition.HOLDS else {"reason": reason}
        confidence = {Condition.HOLDS: place.confidence, Condition.CLEAR: 1.0}.get(condition, 0.0)
        return Observation(
            scenario=self.id,
            camera_id=self.camera.id,
            subject=place.key or "",
            t=t,
            condition=condition,
            confidence=min(1.0, confidence),
            box=place.box() if condition is Condition.HOLDS else place.home,
            detail=detail,
        )

    # -- surviving a restart -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Json]:
        """The stays, ended ones too until the rule can have closed them."""
        return {
            "stays": [
                {
                    "key": place.key,
                    "zone": place.zone,
                    "home": list(place.home),
                    "first": list(place.first),
                    "reference": to_text(place.reference),
                    "since": place.since,
                    "seen_t": place.seen_t,
                    "votes": dict(place.votes),
                    "confidence": place.confidence,
                    "seen_share": place.seen_share,
                    "gone_since": place.gone_since,
                    "left": place.left,
                }
                for place in self._places
                if place.settled
            ]
        }

    def restore(self, state: dict[str, Json]) -> None:
        """Take stays back; those of zones that no longer exist and what is unreadable are left out."""
        stays = state.get("stays")
        for item in stays if isinstance(stays, list) else []:
            try:
                place = _restored(item)
            except (KeyError, TypeError, ValueError):
                continue
            if place.zone in self._zones:
                self._places.append(place)


def _patches(scene: Scene) -> _PatchOf:
    """Small pictures of the scene's frame, kept for a replay as the 8-bit pixels that they are."""

    def patch_of(box: RelativeBox) -> Patch:
        image = scene.frame.image
        pixels = scene.look("patch", lambda: take_patch(image, box).astype(np.uint8), box)
        return pixels.astype(np.float32)

    return patch_of


def _weight(dt: float, memory_s: float) -> float:
    """Weight of what is new after `dt` seconds in an exponential mean over `memory_s` seconds."""
    return 1 - math.exp(-max(0.0, dt) / memory_s)


def _restored(item: Any) -> _Place:  # noqa: ANN401 - JSON
    """A stay from its state.

    Raises:
        KeyError, TypeError or ValueError: if it is none.
    """
    home = as_box(item["home"])
    place = _Place(
        str(item["zone"]),
        home,
        from_text(item["reference"]),
        since=float(item["since"]),
        seen_t=float(item["seen_t"]),
        key=str(item["key"]),
        first=as_box(item["first"]),
        votes={str(name): float(votes) for name, votes in item["votes"].items()},
        confidence=float(item["confidence"]),
        sightings=2,
        strong=2,
        seen_share=float(item["seen_share"]),
        told=True,
        gone_since=None if item["gone_since"] is None else float(item["gone_since"]),
        left=bool(item["left"]),
    )
    place.condition = Condition.CLEAR if place.left else Condition.UNKNOWN
    place.reason = "ended before the restart" if place.left else "not seen since the restart"
    place.recent.append((place.seen_t, home))
    return place
