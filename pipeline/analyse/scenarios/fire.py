"""Fire: flame or smoke, confirmed over time.

The detector proposes, time disposes. Every box that it gives at one place is a *suspect*. Its evidence is additive in
log-odds, so that a decision record can say what spoke for and against it:

* **detector**: mean confidence of the last seconds (a frame without it counts as zero) against the operating point;
* **dynamics**: energy and novelty of the changes inside it (see `pipeline.analyse.flicker`), measured in a short burst
  at 10 Hz and more, or from frame to frame where only 1 to 2 Hz can be had. Steady lamps, suns and red signs have no
  energy, beacons and hazard lights no novelty;
* **growth** of the area; for smoke also the **contrast** that the background loses behind it;
* **travel**: head lamps drive away, a flame's foot stays;
* **known**: a place that was watched for long and never burned is a static emitter and is muted. The memory fades
  and survives restarts; what grows beyond the learnt box, or begins to flicker in it, is heard again.

Brightness that fills the whole picture for less than a second (lightning, a flash) is not looked at.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import astuple, dataclass, field
from functools import cached_property
from statistics import fmean, median
from typing import Any, ClassVar, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv
from pydantic import Field

from pipeline.analyse.flicker import Dynamics, Patch, measure_dynamics, sample_patch
from pipeline.analyse.geometry import (
    Region,
    as_box,
    box_area,
    box_shift,
    median_box,
    overlap_of_smaller,
    relative_boxes,
    share_covered,
    size_ratio,
)
from pipeline.analyse.scenario import (
    CameraContext,
    Need,
    Scenario,
    ScenarioParameters,
    Scene,
    Severity,
)
from pipeline.frame import Image
from pipeline.observation import Condition, Json, Observation, RelativeBox
from pipeline.units import Duration, Polygon, ZoneName

__all__ = ["Fire", "FireParameters"]

Kind: TypeAlias = Literal["flame", "smoke"]
KINDS: dict[str, Kind] = {"fire": "flame", "flame": "flame", "smoke": "smoke"}
WHOLE_VIEW = "view"

# The log-odds of the detector alone at its operating point are 0: the rest must decide.
# Flicker confirms. People and leaves are lively too, so by itself it convinces nobody.
LIVELY_WEIGHT = 1.5
# A still candidate needs 0.97 where 0.4 is the operating point; growth makes up for a part of it.
STILL_WEIGHT = -4.0
GROWTH_WEIGHT = 1.5
CONTRAST_WEIGHT = 1.5
TRAVEL_WEIGHT = -5.0
KNOWN_WEIGHT = -6.0
# Never at its operating point within the detector's memory: worth a look, no more.
WEAK_WEIGHT = -3.0
# Until it was seen three times: single-frame flukes are a detector's commonest error.
NEW_WEIGHT = -1.5
LEAST_SIGHTINGS = 3
# Before its dynamics are known only a sure detection counts.
UNMEASURED_WEIGHT = -1.5

# Energy in levels at which a patch begins to live and lives fully. In real clips flames show 7 to 60, lamps and suns
# under codec noise less than 5, water glittering in the sun 7; smoke is soft, 8 to 20 before a plain wall.
ENERGY: dict[Kind, tuple[float, float]] = {"flame": (4.0, 12.0), "smoke": (1.5, 6.0)}
# Beacons and alarm lamps stay below the first, flames and smoke above the second.
NOVELTY = (0.10, 0.28)
# Smoke boxes are large, and people and vehicles pass in them: those change few of the pixels (0.02 against 0.1 and more
# of smoke in real clips) or all of them once (a kurtosis of 5 to 7 against 2).
EXTENT = (0.03, 0.08)
KURTOSIS = (4.0, 6.0)

MEMORY_S = 2.0  # of the detector's confidences
LOST_S = 3.0  # a suspect that was not seen for so long is over
FAST_WINDOW_S = 3.0  # patches looked at together at burst rate
SLOW_WINDOW_S = 8.0  # ... and where fewer than LEAST_FAST came within the fast window
LEAST_FAST = 12
MAX_SUSPECTS = 6  # measured at a time, the surest first: a bound for the cost
FOLLOW_OVERLAP = 0.3
FOLLOW_SHIFT = 0.6
MARGIN = 0.15  # flames lick beyond their box
TRAVELLED = 0.8  # box sizes, along a straight path
STRAIGHT = 0.7
GROWN = 1.5  # times the area it had seconds ago
GROWTH_WINDOW_S = 6.0

FLASH_RISE = 1.25  # the whole picture brighter by a quarter and by FLASH_LEVELS
FLASH_LEVELS = 6.0
FLASH_S = 1.0  # lightning is over after this; a fire is not
LEVELS_S = 3.0

MAX_EMITTERS = 64
KNOWN_COVER = 0.8
KNOWN_MARGIN = 0.15
KNOWN_SIZE = 1.6  # an area larger than the learnt one by more than this is a new thing
STARTLED = 0.3  # liveliness at which a muted place is heard again

EDGE_SIZE = (160, 90)
EDGE_TIME_S = 60.0


class FireParameters(ScenarioParameters):
    """Parameters of `fire`; all times in seconds.

    Attributes:
        zones: Named outlines that are watched, each a subject of its own; without any, the whole view is one.
        ignore: Outlines in which nothing is looked for (a kitchen's stove, a chimney).
        rate_hz: Frames per second while there is nothing.
        burst_rate_hz: Frames per second while a candidate's flicker is measured.
        burst: How long that takes.
        rest: How long a candidate that remains is watched at the lower rate before the next burst.
        mute_after: A candidate that was watched this long without burning is learnt as a static emitter.
        forget_after: ... and forgotten when it was not seen for so long.
    """

    severity: Severity = "critical"
    raise_after: Duration = 2.5
    min_ratio: float = Field(default=0.6, gt=0, le=1)
    clear_after: Duration = 15.0
    cooldown: Duration = 60.0
    max_gap: Duration = 10.0

    zones: dict[ZoneName, Polygon] = Field(default_factory=dict)
    ignore: tuple[Polygon, ...] = ()
    rate_hz: float = Field(default=2.0, gt=0, le=30)
    burst_rate_hz: float = Field(default=10.0, gt=0, le=30)
    burst: Duration = 2.5
    rest: Duration = 10.0
    mute_after: Duration = 10.0
    forget_after: Duration = 172800.0


class _Picture:
    """A picture, made small once if it is asked for."""

    def __init__(self, image: Image) -> None:
        self._image = image

    @cached_property
    def small(self) -> npt.NDArray[np.uint8]:
        """(90, 160) uint8 grey."""
        small = cv2.resize(self._image, EDGE_SIZE, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)


@dataclass(frozen=True, slots=True)
class _Sighting:
    t: float
    confidence: float  # 0 where the frame was inferred and did not show it
    box: RelativeBox | None


@dataclass(slots=True, eq=False)
class _Suspect:
    kind: Kind
    box: RelativeBox
    region: RelativeBox  # fixed, so that its patches compare
    threshold: float
    since: float
    seen_t: float
    sightings: deque[_Sighting] = field(default_factory=deque)
    times: deque[float] = field(default_factory=deque)
    patches: deque[Patch] = field(default_factory=deque)
    levels: deque[float] = field(default_factory=deque)
    dynamics: Dynamics | None = None
    lively: deque[tuple[float, float]] = field(default_factory=deque)
    contrast_loss: float = 0.0
    still_s: float = 0.0
    known: bool = False
    next_burst: float = -math.inf

    def confidence(self, t: float) -> float:
        """Mean of the detector's confidences over `MEMORY_S`."""
        recent = [s.confidence for s in self.sightings if t - s.t <= MEMORY_S]
        return fmean(recent) if recent else 0.0

    def peak(self, t: float) -> float:
        """Highest of the detector's confidences over `MEMORY_S`."""
        return max((s.confidence for s in self.sightings if t - s.t <= MEMORY_S), default=0.0)

    def liveliness(self) -> float | None:
        """0 still or repeating, 1 burning: mean over `MEMORY_S`; None where not measured."""
        return fmean([value for _, value in self.lively]) if self.lively else None

    def measure(self, t: float, image: Image, level: float) -> tuple[Any, ...] | None:
        """The fields of its `Dynamics` up to this picture; None where too little was seen."""
        self.times.append(t)
        self.patches.append(sample_patch(image, self.region))
        self.levels.append(level)
        fast = sum(1 for time in self.times if t - time <= FAST_WINDOW_S)
        window = FAST_WINDOW_S if fast >= LEAST_FAST else SLOW_WINDOW_S
        while t - self.times[0] > window:
            self.times.popleft()
            self.patches.popleft()
            self.levels.popleft()
        dynamics = measure_dynamics(self.times, self.patches, self.levels)
        return None if dynamics is None else astuple(dynamics)

    def weigh(self, t: float, dynamics: Dynamics) -> None:
        """Takes in a measurement; a beacon's first turns look new, the later ones do not."""
        self.dynamics = dynamics
        lively = _ramp(dynamics.energy, *ENERGY[self.kind]) * _ramp(dynamics.novelty, *NOVELTY)
        if self.kind == "smoke":
            passing = _ramp(dynamics.kurtosis, *KURTOSIS)
            lively *= _ramp(dynamics.extent, *EXTENT) * (1 - passing)
        self.lively.append((t, lively))
        while t - self.lively[0][0] > MEMORY_S:
            self.lively.popleft()

    def grown(self) -> bool:
        """Whether its boxes' area rose, median of the later half over median of the earlier."""
        areas = [box_area(s.box) for s in self.sightings if s.box is not None]
        half = len(areas) // 2
        return half >= LEAST_SIGHTINGS and median(areas[half:]) > GROWN * median(areas[:half])

    def travelled(self) -> bool:
        """Whether its foot moved along a line, farther than its size: a vehicle's lamp."""
        boxes = [s.box for s in self.sightings if s.box is not None]
        if len(boxes) < LEAST_SIGHTINGS:
            return False
        feet = [((box[0] + box[2]) / 2, box[3]) for box in boxes]
        net = math.dist(feet[0], feet[-1])
        if net <= TRAVELLED * median(max(box[2] - box[0], box[3] - box[1]) for box in boxes):
            return False
        return net > STRAIGHT * sum(map(math.dist, feet, feet[1:]))


@dataclass(slots=True, eq=False)
class _Emitter:
    """A place that shines and does not burn."""

    box: RelativeBox
    seen_t: float


@dataclass(frozen=True, slots=True)
class _Verdict:
    suspect: _Suspect
    probability: float
    reasons: dict[str, Json]


class Fire(Scenario[FireParameters]):
    """Flame or smoke, one event per zone (or per view)."""

    id: ClassVar[str] = "fire"
    title: ClassVar[dict[str, str]] = {"zh": "火情", "en": "Fire"}
    Parameters: ClassVar[type[ScenarioParameters]] = FireParameters
    model: ClassVar[str | None] = "fire"
    replayed: ClassVar[frozenset[str] | None] = frozenset(
        {"severity", "zones", "mute_after", "forget_after"}
    )
    reads_rule: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, camera: CameraContext, parameters: FireParameters) -> None:
        super().__init__(camera, parameters)
        self._zones = {f"zone:{name}": Region(points) for name, points in parameters.zones.items()}
        self._ignored = [Region(points) for points in parameters.ignore]
        self._suspects: list[_Suspect] = []
        self._emitters: list[_Emitter] = []
        self._levels: deque[tuple[float, float]] = deque()
        self._flash_t = -math.inf
        self._last_t: float | None = None
        self._inferred_t = -math.inf
        self._burst_until = -math.inf
        self._edges: npt.NDArray[np.float32] | None = None

    def need(self, t: float) -> Need:
        """A burst while a candidate is measured; else the base rate, inferred while a candidate remains."""
        if t < self._burst_until:
            return Need(self.parameters.burst_rate_hz, inference=True)
        watching = any(not suspect.known for suspect in self._suspects)
        return Need(self.parameters.rate_hz, inference=watching)

    def interrupt(self, t: float) -> list[Observation]:
        """Nothing is known until pictures return; the static emitters are kept."""
        self._suspects.clear()
        self._levels.clear()
        self._last_t = None
        self._burst_until = -math.inf
        return [self._unknown(subject, t, "interrupted") for subject in self._subjects()]

    def observe(self, scene: Scene) -> list[Observation]:
        """One observation per zone, or one of the whole view."""
        t = scene.frame.t
        if scene.detections is None:
            return [self._unknown(subject, t, "no_model") for subject in self._subjects()]
        picture = _Picture(scene.frame.image)
        level = scene.look("level", lambda: float(picture.small.mean()))
        elapsed = 0.0 if self._last_t is None else max(0.0, t - self._last_t)
        self._last_t = t
        if not self._is_flash(t, level):
            if scene.detections_t > self._inferred_t:
                self._inferred_t = scene.detections_t
                self._follow(scene, scene.detections)
            self._measure(scene, level, elapsed)
            self._weigh_contrast(scene, picture, elapsed)
        self._suspects = [s for s in self._suspects if t - s.seen_t <= LOST_S]
        self._remember(t)
        self._open_bursts(t)
        verdicts = [self._verdict(suspect, t) for suspect in self._suspects]
        return [self._judge(subject, t, verdicts) for subject in self._subjects()]

    # -- following --------------------------------------------------------------------------------------------------

    def _follow(self, scene: Scene, detections: sv.Detections) -> None:
        """Gives every suspect its detection of this frame, or a miss; what is left over is a new suspect."""
        t, confidences = scene.frame.t, detections.confidence
        if confidences is None:
            confidences = np.ones(len(detections), np.float32)
        boxes = relative_boxes(detections.xyxy, scene.frame.width_px, scene.frame.height_px)
        names = detections.data.get("class_name", ("",) * len(boxes))
        left = [
            (float(confidence), KINDS[str(name)], box, str(name))
            for confidence, box, name in zip(confidences, boxes, names, strict=True)
            if str(name) in KINDS and self._watched(box)
        ]
        left.sort(key=lambda candidate: candidate[0], reverse=True)
        for suspect in sorted(self._suspects, key=lambda s: s.confidence(t), reverse=True):
            match = next(
                (c for c in left if c[1] == suspect.kind and _same_place(c[2], suspect.box)), None
            )
            if match is None:
                suspect.sightings.append(_Sighting(t, 0.0, None))
            else:
                # All boxes on one fire are that fire: detectors cut flames into pieces.
                left = [c for c in left if c is not match and not self._piece(c, suspect, match[2])]
                suspect.sightings.append(_Sighting(t, match[0], match[2]))
                suspect.box, suspect.seen_t = match[2], t
                self._keep_region(suspect)
            while t - suspect.sightings[0].t > GROWTH_WINDOW_S:
                suspect.sightings.popleft()
        while left:
            confidence, kind, box, name = left.pop(0)
            suspect = _Suspect(kind, box, _grow(box, MARGIN), scene.thresholds.get(name, 0.5), t, t)
            suspect.sightings.append(_Sighting(t, confidence, box))
            suspect.known = self._emitter_at(box) is not None
            left = [c for c in left if not self._piece(c, suspect, box)]
            self._suspects.append(suspect)
        self._suspects.sort(key=lambda s: s.confidence(t), reverse=True)
        del self._suspects[MAX_SUSPECTS:]

    @staticmethod
    def _piece(
        candidate: tuple[float, Kind, RelativeBox, str], suspect: _Suspect, box: RelativeBox
    ) -> bool:
        return candidate[1] == suspect.kind and overlap_of_smaller(candidate[2], box) > 0.5

    def _watched(self, box: RelativeBox) -> bool:
        return not any(region.share(box) > 0.5 for region in self._ignored)

    @staticmethod
    def _keep_region(suspect: _Suspect) -> None:
        """Moves the place of measurement when the suspect left it or outgrew it."""
        outgrown = box_area(suspect.box) > 2 * box_area(suspect.region)
        if outgrown or share_covered(suspect.box, suspect.region) < 0.6:
            suspect.region = _grow(suspect.box, MARGIN)
            suspect.times.clear()
            suspect.patches.clear()
            suspect.levels.clear()

    # -- measuring --------------------------------------------------------------------------------------------------

    def _is_flash(self, t: float, level: float) -> bool:
        while self._levels and t - self._levels[0][0] > LEVELS_S:
            self._levels.popleft()
        known = [past for _, past in self._levels]
        self._levels.append((t, level))
        if len(known) < 3:
            return False
        usual = median(known)
        if level <= FLASH_RISE * usual + FLASH_LEVELS:
            self._flash_t = -math.inf
            return False
        if self._flash_t == -math.inf:
            self._flash_t = t
        return t - self._flash_t < FLASH_S

    def _measure(self, scene: Scene, level: float, elapsed: float) -> None:
        t, image = scene.frame.t, scene.frame.image
        measured = scene.look(
            "dynamics",
            lambda: tuple(suspect.measure(t, image, level) for suspect in self._suspects),
            (len(self._suspects),),
        )
        for suspect, numbers in zip(self._suspects, measured, strict=True):
            if numbers is not None:
                suspect.weigh(t, Dynamics(*numbers))
            lively = suspect.liveliness()
            if lively is not None and lively < STARTLED and not suspect.grown():
                suspect.still_s += min(elapsed, MEMORY_S)
            elif lively is not None:
                suspect.still_s = 0.0
                suspect.known = False

    def _weigh_contrast(self, scene: Scene, picture: _Picture, elapsed: float) -> None:
        """Smoke veils: the edges behind it fade, those elsewhere stay (Töreyin et al. 2005, wavelet energy)."""
        losses = scene.look(
            "contrast",
            lambda: self._contrast_losses(picture.small, elapsed),
            (len(self._suspects),),
        )
        for suspect, loss in zip(self._suspects, losses, strict=True):
            if loss is not None:
                suspect.contrast_loss = loss

    def _contrast_losses(
        self, grey: npt.NDArray[np.uint8], elapsed: float
    ) -> tuple[float | None, ...]:
        """How much of the usual edges is gone, for each suspect; None on the first picture."""
        edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F)) + np.float32(1.0)
        if self._edges is None:
            self._edges = edges
            return (None,) * len(self._suspects)
        losses: list[float | None] = []
        ratio = edges / self._edges
        elsewhere = max(float(np.median(ratio)), 0.1)
        weight = np.full(edges.shape, 1 - math.exp(-elapsed / EDGE_TIME_S), np.float32)
        for suspect in self._suspects:
            x1, y1, x2, y2 = suspect.box
            rows = slice(
                int(y1 * EDGE_SIZE[1]), max(int(y2 * EDGE_SIZE[1]), int(y1 * EDGE_SIZE[1]) + 1)
            )
            cols = slice(
                int(x1 * EDGE_SIZE[0]), max(int(x2 * EDGE_SIZE[0]), int(x1 * EDGE_SIZE[0]) + 1)
            )
            now, usual = float(edges[rows, cols].mean()), float(self._edges[rows, cols].mean())
            losses.append(1 - now / usual / elsewhere)
            weight[rows, cols] = 0.0  # what smoke does to the edges is not learnt
        self._edges += weight * (edges - self._edges)
        return tuple(losses)

    # -- static emitters --------------------------------------------------------------------------------------------

    def _emitter_at(self, box: RelativeBox) -> _Emitter | None:
        for emitter in self._emitters:
            inside = share_covered(box, _grow(emitter.box, KNOWN_MARGIN)) >= KNOWN_COVER
            if inside and box_area(box) <= KNOWN_SIZE * box_area(emitter.box):
                return emitter
        return None

    def _remember(self, t: float) -> None:
        for suspect in self._suspects:
            emitter = self._emitter_at(suspect.box)
            if suspect.known:
                if emitter is None:
                    suspect.known = False  # it grew out of its place
                    suspect.still_s = 0.0
                else:
                    emitter.seen_t = t
            elif suspect.still_s >= self.parameters.mute_after:
                suspect.known = True
                if emitter is None:
                    boxes = [s.box for s in suspect.sightings if s.box is not None]
                    self._emitters.append(_Emitter(median_box(boxes or [suspect.box]), t))
                else:
                    emitter.seen_t = t
        self._emitters = [e for e in self._emitters if t - e.seen_t <= self.parameters.forget_after]
        if len(self._emitters) > MAX_EMITTERS:
            self._emitters.sort(key=lambda e: e.seen_t, reverse=True)
            del self._emitters[MAX_EMITTERS:]

    def _open_bursts(self, t: float) -> None:
        for suspect in self._suspects:
            if not suspect.known and t >= suspect.next_burst:
                self._burst_until = max(self._burst_until, t + self.parameters.burst)
                suspect.next_burst = t + self.parameters.burst + self.parameters.rest

    # -- judging ----------------------------------------------------------------------------------------------------

    def _verdict(self, suspect: _Suspect, t: float) -> _Verdict:
        confidence, lively, grown = suspect.confidence(t), suspect.liveliness(), suspect.grown()
        travelled = suspect.kind == "flame" and suspect.travelled()
        seen = sum(1 for sighting in suspect.sightings if sighting.box is not None)
        terms = {"detector": _logit(confidence) - _logit(suspect.threshold)}
        if suspect.peak(t) < suspect.threshold:
            terms["weak"] = WEAK_WEIGHT
        if seen < LEAST_SIGHTINGS:
            terms["new"] = NEW_WEIGHT
        if lively is None:
            terms["unmeasured"] = UNMEASURED_WEIGHT
        else:
            terms["dynamics"] = STILL_WEIGHT + (LIVELY_WEIGHT - STILL_WEIGHT) * lively
        if grown:
            terms["growth"] = GROWTH_WEIGHT
        if suspect.kind == "smoke":
            terms["contrast"] = CONTRAST_WEIGHT * _ramp(suspect.contrast_loss, 0.1, 0.4)
        if travelled:
            terms["travel"] = TRAVEL_WEIGHT
        if suspect.known:
            terms["known"] = KNOWN_WEIGHT
        reasons: dict[str, Json] = {
            "kind": suspect.kind,
            "detector": round(confidence, 3),
            "log_odds": {name: round(value, 2) for name, value in terms.items()},
        }
        if suspect.dynamics is not None:
            reasons |= {
                "energy": round(suspect.dynamics.energy, 1),
                "novelty": round(suspect.dynamics.novelty, 2),
                "rate_hz": round(suspect.dynamics.rate_hz, 1),
            }
            if suspect.dynamics.flicker_hz is not None:
                reasons["flicker_hz"] = round(suspect.dynamics.flicker_hz, 1)
        return _Verdict(suspect, _sigmoid(sum(terms.values())), reasons)

    def _judge(self, subject: str, t: float, verdicts: list[_Verdict]) -> Observation:
        region = self._zones.get(subject)
        here = [v for v in verdicts if region is None or region.share(v.suspect.box) > 0.3]
        best = max(here, key=lambda v: v.probability, default=None)
        if best is None:
            return self._observation(subject, t, Condition.CLEAR, 1.0)
        holds = best.probability >= 0.5
        burning = any(v.suspect.kind == "flame" and v.probability >= 0.5 for v in here)
        smoke_only = holds and not burning and self.parameters.severity == "critical"
        return self._observation(
            subject,
            t,
            Condition.HOLDS if holds else Condition.CLEAR,
            best.probability if holds else 1 - best.probability,
            box=best.suspect.box,
            severity="major" if smoke_only else None,
            detail=best.reasons,
        )

    def _subjects(self) -> list[str]:
        return list(self._zones) or [WHOLE_VIEW]

    def _unknown(self, subject: str, t: float, reason: str) -> Observation:
        return self._observation(subject, t, Condition.UNKNOWN, 1.0, detail={"reason": reason})

    def _observation(
        self,
        subject: str,
        t: float,
        condition: Condition,
        confidence: float,
        *,
        box: RelativeBox | None = None,
        severity: str | None = None,
        detail: dict[str, Json] | None = None,
    ) -> Observation:
        return Observation(
            self.id, self.camera.id, subject, t, condition, confidence, box, severity, detail or {}
        )

    def state(self) -> dict[str, Json]:
        """The static emitters: box and when each was last seen."""
        return {
            "version": 1,
            "emitters": [
                [*(round(value, 4) for value in emitter.box), emitter.seen_t]
                for emitter in self._emitters
            ],
        }

    def restore(self, state: dict[str, Json]) -> None:
        """Take the static emitters back; rows that are none are left out."""
        rows = state.get("emitters")
        if state.get("version") != 1 or not isinstance(rows, list):
            return
        for row in rows:
            if isinstance(row, list) and len(row) == 5:
                numbers = [float(v) for v in row if isinstance(v, int | float)]
                if len(numbers) == 5:
                    self._emitters.append(_Emitter(as_box(numbers[:4]), numbers[4]))


def _same_place(a: RelativeBox, b: RelativeBox) -> bool:
    near = box_shift(a, b) < FOLLOW_SHIFT and size_ratio(a, b) > 0.2
    return near or overlap_of_smaller(a, b) > FOLLOW_OVERLAP


def _grow(box: RelativeBox, share: float) -> RelativeBox:
    x1, y1, x2, y2 = box
    dx, dy = share * (x2 - x1), share * (y2 - y1)
    return max(0.0, x1 - dx), max(0.0, y1 - dy), min(1.0, x2 + dx), min(1.0, y2 + dy)


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _logit(probability: float) -> float:
    p = min(max(probability, 0.01), 0.99)
    return math.log(p / (1 - p))


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -30.0), 30.0)))
