"""Discoloured water: a plume whose colour is not that of this water at this hour."""

from __future__ import annotations

import base64
import binascii
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.analyse.colour import (
    Grid,
    ciede2000,
    lab_to_linear,
    linear_to_lab,
    name_water_colour,
)
from pipeline.analyse.region import RegionFinder
from pipeline.analyse.scenario import CameraContext, Need, Scenario, ScenarioParameters, Scene
from pipeline.frame import Image
from pipeline.observation import Condition, Json, Observation, RelativeBox
from pipeline.units import Duration, Polygon

__all__ = ["RiverDiscoloration", "RiverParameters"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_Outline: TypeAlias = tuple[tuple[Polygon, ...], tuple[Polygon, ...]]
"""Polygons of the water, and of the holes in it."""
_OUTLINE: TypeAdapter[_Outline] = TypeAdapter(_Outline)


class RiverParameters(ScenarioParameters):
    """Parameters of `river_discoloration`; all times in seconds.

    Attributes:
        water: Outline of the water. Without one, the model ``water`` finds it before the warm-up begins.
        reference: Dry surfaces that do not change (a wall, a bank): the measure of the light. Without any, the light is
            estimated from everything in the picture that is not water.
        warm_up: How long the water is learnt before anything is said of it.
        min_delta_e: Colour difference from the normal (CIEDE2000 at equal brightness) that counts as a change;
            10 is plain to everybody, 2 the limit of seeing.
        min_share: Share of the water that must have changed in one piece.
        adapt: Time constant with which the normal follows the water while nothing is amiss.
        relearn_after: A change that stays this long becomes the normal (a new jetty, a season).
    """

    raise_after: Duration = 30.0
    min_ratio: float = Field(default=0.8, gt=0, le=1)
    clear_after: Duration = 180.0
    cooldown: Duration = 600.0
    max_gap: Duration = 60.0

    water: Polygon | None = None
    reference: tuple[Polygon, ...] = ()
    warm_up: Duration = 300.0
    min_delta_e: float = Field(default=8.0, gt=0)
    min_share: float = Field(default=0.04, gt=0, le=1)
    adapt: Duration = Field(default=1800.0, gt=0)
    relearn_after: Duration = Field(default=86400.0, gt=0)


ROWS, COLS = 8, 12
REFERENCE_ROWS, REFERENCE_COLS = 6, 8
# Frames over which each cell's median is taken: what passes in fewer than three of them (a bird, a wave's glint, a
# boat at speed) leaves no trace.
SMOOTHING = 5
FIND_LOOKS = 8  # at the model's water, spread over `FIND_SHARE` of a warm-up
FIND_SHARE = 0.25
WARM_UP_SAMPLES = 120  # kept of a warm-up however long it is
MIN_WARM_UP_SAMPLES = 6
# Lightness counts this much beside chroma: a cloud's or a bridge's shadow (a factor of 0.3 in light, some 20 L*) stays
# below `min_delta_e`, ink (some 40 L*) does not.
LIGHTNESS_WEIGHT = 0.3
NOISE_FACTOR = 4.0  # a cell's own restlessness, in mean absolute deviations, that is no change
RESIDUAL_FACTOR = 1.5  # a change must exceed what the dry ground shows after normalising
HYSTERESIS = 0.7  # a changed cell stays changed down to this share of its threshold
MOVING_SHARE = 0.4  # of the cells touched lately, those already normal again: a boat, not a plume
WINDOW_S = 12.0  # "lately"
ROUGHER = 2.5  # a hull, a deck and people make a cell this much rougher than the water was
DARKEST = 0.004  # linear light (level 13 of 255): below, an 8-bit colour is mostly noise
CLIPPED = 0.95
MONOCHROME = 1.5  # mean difference of the channels in levels: the camera's infrared mode has none
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
INNOVATION = (
    0.05  # log light: one frame cannot pull the normal further than this, times its small weight
)


@dataclass(slots=True, eq=False)
class _Normal:
    """What one hour of the day normally looks like: logarithms of linear RGB, so that light is a sum."""

    water: Floats  # (n, 3)
    noise: Floats  # (n,) mean absolute deviation in delta E
    roughness: Floats  # (n,) levels
    reference: Floats  # (m, 3)


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """One frame: logarithms of linear RGB of the water's cells (n, 3) and the dry tiles (m, 3)."""

    water: Floats
    roughness: Floats
    reference: Floats
    usable: Bools  # (m,) tiles neither clipped nor in the dark


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    delta: Floats  # (n,) delta E
    latest: Floats  # (n,) delta E of the last frame alone
    threshold: Floats  # (n,) delta E
    gain: Floats  # (3,) log of the light's red, green, blue factor since the normal was learnt
    water: Floats  # (n, 3) log light with the gain taken out
    normal: _Normal


@dataclass(frozen=True, slots=True, eq=False)
class _Patch:
    cells: Bools  # (n,)
    share: float


def _difference(now: Floats, normal: Floats) -> Floats:
    """Colour difference that a shadow does not make, of two (n, 3) log linear RGB arrays; (n,) delta E.

    A shadow or a brighter sun multiplies all channels alike (chromaticity is constant along the illuminant's
    intensity), so both colours are brought to their common geometric mean luminance before CIEDE2000; the lightness
    itself is added with a small weight.
    """
    first, second = np.exp(now), np.exp(normal)
    half = 0.5 * np.log((first @ _LUMINANCE) / (second @ _LUMINANCE))[:, None]
    # In one go: on so few cells it is the calls that cost.
    together = np.concatenate([first * np.exp(-half), second * np.exp(half), first, second])
    levelled, level, own, usual = linear_to_lab(together).reshape(4, -1, 3)
    chroma = ciede2000(levelled, level)
    return np.hypot(chroma, LIGHTNESS_WEIGHT * (own[:, 0] - usual[:, 0]))


def _median(values: Floats) -> Floats:
    """`np.median` along the first axis, which on small arrays spends most of its time on preparations."""
    ordered = np.sort(values, axis=0)
    return np.asarray((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


class RiverDiscoloration(Scenario[RiverParameters]):
    """Compares the water's colour, freed from the light, with this camera's own normal at this hour of the day.

    The light's three gains come from dry ground (diagonal, von Kries adaptation in linear RGB); what remains is
    judged cell by cell. One connected, staying region of changed cells is a plume; what moves on, or has a hull's
    edges, is none. While a change stands, the normal does not learn.
    """

    id: ClassVar[str] = "river_discoloration"
    title: ClassVar[dict[str, str]] = {"zh": "河道水体变色", "en": "River discoloration"}
    Parameters: ClassVar[type[ScenarioParameters]] = RiverParameters
    replayed: ClassVar[frozenset[str] | None] = frozenset(
        {"severity", "warm_up", "min_delta_e", "min_share", "adapt", "relearn_after"}
    )
    reads_rule: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, camera: CameraContext, parameters: RiverParameters) -> None:
        super().__init__(camera, parameters)
        self._changed: Bools = np.zeros(0, bool)
        self._finder = RegionFinder()
        self._look_t = -math.inf
        self._found: _Outline = ((), ())
        if parameters.water is not None:
            self._settle((parameters.water,), ())
        shortest = max(min(parameters.raise_after, parameters.warm_up), 1.0)
        self._rate_hz = min(2.0, max(0.5, 10.0 / shortest))  # ten looks within the shortest time
        self._normals: dict[int, _Normal] = {}
        self._warming: list[tuple[float, _Reading]] = []
        self._recent: deque[_Reading] = deque(maxlen=SMOOTHING)
        self._last_t: float | None = None
        self._touched: deque[tuple[float, Bools]] = deque()
        self._frozen_since: float | None = None

    @classmethod
    def model_for(cls, parameters: ScenarioParameters) -> str | None:
        """The segmentation model, where nobody outlined the water."""
        outlined = isinstance(parameters, RiverParameters) and parameters.water is not None
        return None if outlined else "water"

    def need(self, t: float) -> Need:  # noqa: ARG002
        """Half a frame a second, or up to two where the configured times are short; inference to find the water."""
        return Need(self._rate_hz, inference=self.active_model is not None)

    def interrupt(self, t: float) -> list[Observation]:
        """The water is unknown until pictures return; what was in motion is forgotten."""
        self._recent.clear()
        self._touched.clear()
        self._last_t = None
        return [self._unknown(t, "interrupted")]

    def observe(self, scene: Scene) -> list[Observation]:
        """One observation of the subject ``water``."""
        t = scene.frame.t
        if self.active_model is not None:
            return [self._find(scene)]
        reading, reason = self._read(scene)
        if reading is None:
            return [self._unknown(t, reason)]
        self._recent.append(reading)
        if not self._normals:
            return [self._warm_up(t, reading)]

        comparison = self._compare(t)
        level = np.where(self._changed, HYSTERESIS, 1.0) * comparison.threshold
        self._changed = comparison.delta > level
        patch = self._largest(self._changed)
        moving = self._moving_share(t, patch.cells)
        rougher = self._rougher(comparison.normal, reading, patch.cells)
        pending = patch.share >= self.parameters.min_share / 2
        self._learn(t, reading, comparison, pending)

        holds = patch.share >= self.parameters.min_share
        object_like = moving > MOVING_SHARE or rougher > ROUGHER
        return [self._judge(t, comparison, patch, moving, rougher, holds, object_like)]

    def _settle(self, inside: tuple[Polygon, ...], holes: tuple[Polygon, ...]) -> None:
        """From now on this is the water; the light is measured on the dry reference, or on all that is not water."""
        reference = self.parameters.reference
        self._water = Grid(inside, holes, rows=ROWS, cols=COLS)
        self._dry = (
            Grid(reference, rows=REFERENCE_ROWS, cols=REFERENCE_COLS)
            if reference
            else Grid((), inside, rows=ROWS, cols=COLS)
        )
        self._changed = np.zeros(len(self._water), bool)
        self.active_model = None

    def _find(self, scene: Scene) -> Observation:
        t = scene.frame.t
        gap_s = self.parameters.warm_up * FIND_SHARE / FIND_LOOKS
        if scene.detections is not None and scene.detections_t >= self._look_t + gap_s:
            self._look_t = scene.detections_t
            self._finder.add(scene.look("water_mask", lambda: _water_mask(scene)))
        if self._finder.looks < FIND_LOOKS:
            return self._unknown(t, "finding_water", looks=self._finder.looks)
        found = self._finder.outline()
        self._finder = RegionFinder()
        # A sliver without a cell of its own is no water to watch.
        if not found[0] or not len(Grid(*found, rows=ROWS, cols=COLS)):
            return self._unknown(t, "no_water_found")
        self._found = found
        self._settle(*found)
        return self._unknown(t, "warming_up", remaining_s=self.parameters.warm_up)

    def _judge(
        self,
        t: float,
        comparison: _Comparison,
        patch: _Patch,
        moving: float,
        rougher: float,
        large: bool,
        object_like: bool,
    ) -> Observation:
        parameters = self.parameters
        holds = large and not object_like
        excess = patch.share / parameters.min_share
        detail: dict[str, Json] = {
            "share": round(patch.share, 4),
            "delta_e": round(float(_median(comparison.delta)), 1),
            "gain": [round(float(value), 3) for value in np.exp(comparison.gain)],
        }
        if patch.cells.any():
            worst = comparison.delta[patch.cells]
            strength = float(_median(worst / comparison.threshold[patch.cells]))
            excess = min(excess, strength)
            # Where a plume is thickest it shows its own colour, not the water's.
            core = patch.cells & (comparison.delta >= _median(worst))
            now = linear_to_lab(np.exp(_median(comparison.water[core])))
            usual = linear_to_lab(np.exp(_median(comparison.normal.water[core])))
            name = name_water_colour(now, usual)
            level = np.clip(lab_to_linear(now), 0, 1)
            detail |= {
                "delta_e": round(float(_median(worst)), 1),
                "colour": name.id,
                "colour_zh": name.zh,
                "colour_en": name.en,
                "linear_rgb": [round(float(value), 3) for value in level],
                "moving_share": round(moving, 2),
                "roughness": round(rougher, 2),
            }
        if large and object_like:
            detail["reason"] = "passing_object" if moving > MOVING_SHARE else "rigid_object"
        # Half at the threshold itself, towards one with the distance from it on either side.
        confidence = 1 - 0.5 / max(excess, 1.0) if holds else 1 - 0.5 * min(excess, 1.0)
        return Observation(
            scenario=self.id,
            camera_id=self.camera.id,
            subject="water",
            t=t,
            condition=Condition.HOLDS if holds else Condition.CLEAR,
            confidence=confidence,
            box=self._box(patch.cells) if holds else None,
            detail=detail,
        )

    def _unknown(self, t: float, reason: str, **detail: Json) -> Observation:
        return Observation(
            scenario=self.id,
            camera_id=self.camera.id,
            subject="water",
            t=t,
            condition=Condition.UNKNOWN,
            confidence=1.0,
            detail={"reason": reason, **detail},
        )

    def _read(self, scene: Scene) -> tuple[_Reading | None, str]:
        image = scene.frame.image
        wet_levels, dry_levels, colourful = scene.look(
            "water",
            lambda: (self._water.levels(image), self._dry.levels(image), _colourfulness(image)),
        )
        water, roughness = self._water.colours(wet_levels)
        dry, _ = self._dry.colours(dry_levels)
        if _median(dry.ravel()) < DARKEST and _median(water.ravel()) < DARKEST:
            return None, "too_dark"
        if colourful < MONOCHROME:
            return None, "monochrome"
        usable = np.asarray(((dry > DARKEST) & (dry < CLIPPED)).all(axis=1), bool)
        if usable.sum() < min(3, len(self._dry)):
            return None, "no_light_measure"
        floor = DARKEST / 8  # a level of zero still has a logarithm
        return (
            _Reading(
                np.log(np.maximum(water, floor)), roughness, np.log(np.maximum(dry, floor)), usable
            ),
            "",
        )

    def _warm_up(self, t: float, reading: _Reading) -> Observation:
        gap = self.parameters.warm_up / WARM_UP_SAMPLES
        if not self._warming or t - self._warming[-1][0] >= gap:
            self._warming.append((t, reading))
        elapsed = t - self._warming[0][0]
        if elapsed >= self.parameters.warm_up and len(self._warming) >= MIN_WARM_UP_SAMPLES:
            readings = [reading for _, reading in self._warming]
            reference = _median(np.array([reading.reference for reading in readings]))
            water = np.array([reading.water for reading in readings])
            water -= _log_gains(readings, reference)[:, None]
            normal = _median(water)
            apart = _difference(water.reshape(-1, 3), np.tile(normal, (len(water), 1)))
            noise = apart.reshape(len(water), -1).mean(axis=0)
            roughness = _median(np.array([reading.roughness for reading in readings]))
            self._normals[self._hour(t)] = _Normal(normal, noise, roughness, reference)
            self._warming.clear()
        remaining = max(0.0, self.parameters.warm_up - elapsed)
        return self._unknown(t, "warming_up", remaining_s=round(remaining, 1))

    def _hour(self, t: float) -> int:
        return datetime.fromtimestamp(t, self.camera.timezone).hour

    def _plausible(self, t: float) -> list[_Normal]:
        """The normals of this hour and its neighbours; without any, the nearest hour that was learnt."""
        hour = self._hour(t)
        by_distance = sorted(
            self._normals, key=lambda other: min((other - hour) % 24, (hour - other) % 24)
        )
        near = [h for h in by_distance if min((h - hour) % 24, (hour - h) % 24) <= 1]
        return [self._normals[h] for h in near or by_distance[:1]]

    def _compare(self, t: float) -> _Comparison:
        """Against every plausible normal; the one that explains the picture best counts."""
        found = [self._against(normal) for normal in self._plausible(t)]
        if len(found) == 1:
            return found[0]
        return min(found, key=lambda c: float(np.mean(np.minimum(c.delta / c.threshold, 3.0))))

    def _against(self, normal: _Normal) -> _Comparison:
        gains = _log_gains(self._recent, normal.reference)
        freed = np.array([reading.water for reading in self._recent]) - gains[:, None]
        water, last = _median(freed), self._recent[-1]
        dry = (last.reference - gains[-1])[last.usable]
        n = len(water)
        delta = _difference(
            np.concatenate([water, freed[-1], dry]),
            np.concatenate([normal.water, normal.water, normal.reference[last.usable]]),
        )
        residual = delta[2 * n :]
        floor = RESIDUAL_FACTOR * float(_median(residual)) if len(residual) else 0.0
        threshold = np.maximum(max(self.parameters.min_delta_e, floor), NOISE_FACTOR * normal.noise)
        return _Comparison(delta[:n], delta[n : 2 * n], threshold, gains[-1], water, normal)

    def _largest(self, changed: Bools) -> _Patch:
        picture = np.zeros(ROWS * COLS, np.uint8)
        picture[self._water.index[changed]] = 1
        count, labels = cv2.connectedComponents(picture.reshape(ROWS, COLS), connectivity=8)
        label = labels.reshape(-1)[self._water.index]
        total = float(self._water.cover.sum())
        shares = [float(self._water.cover[label == k].sum()) / total for k in range(1, count)]
        if not shares:
            return _Patch(np.zeros(len(self._water), bool), 0.0)
        best = int(np.argmax(shares))
        return _Patch(label == best + 1, shares[best])

    def _moving_share(self, t: float, cells: Bools) -> float:
        self._touched.append((t, cells))
        while t - self._touched[0][0] > WINDOW_S:
            self._touched.popleft()
        union = np.logical_or.reduce([touched for _, touched in self._touched])
        return float((union & ~self._changed).sum() / union.sum()) if union.any() else 0.0

    @staticmethod
    def _rougher(normal: _Normal, reading: _Reading, cells: Bools) -> float:
        if not cells.any():
            return 0.0
        # Two levels are the sensor's own noise; calm water has hardly more.
        ratio = (reading.roughness[cells] + 2.0) / (normal.roughness[cells] + 2.0)
        return float(_median(ratio))

    def _learn(self, t: float, reading: _Reading, comparison: _Comparison, pending: bool) -> None:
        elapsed = 0.0 if self._last_t is None else max(0.0, t - self._last_t)
        self._last_t = t
        if pending:
            self._frozen_since = t if self._frozen_since is None else self._frozen_since
            if t - self._frozen_since > self.parameters.relearn_after:
                self._normals.clear()
                self._frozen_since = None
            return
        self._frozen_since = None
        hour = self._hour(t)
        if hour not in self._normals:
            source = comparison.normal
            self._normals[hour] = _Normal(
                source.water.copy(),
                source.noise.copy(),
                source.roughness.copy(),
                source.reference.copy(),
            )
            compared = True
        else:
            compared = self._normals[hour] is comparison.normal
        normal = self._normals[hour]
        weight = 1 - math.exp(-min(elapsed, 10.0) / self.parameters.adapt)
        gain = comparison.gain if compared else _log_gains([reading], normal.reference)[0]
        water = reading.water - gain
        quiet = ~self._changed
        deviation = (
            comparison.latest[quiet] if compared else _difference(water[quiet], normal.water[quiet])
        )
        normal.noise[quiet] += weight * (deviation - normal.noise[quiet])
        normal.roughness += weight * (reading.roughness - normal.roughness)
        # Light and water are learnt together, so that their ratio, the colour, is what stays.
        step = _limited(water[quiet] - normal.water[quiet])
        normal.water[quiet] += weight * step + weight * gain
        shift = reading.reference - gain - normal.reference
        shift = np.where(reading.usable[:, None], _limited(shift), 0.0)
        normal.reference += weight * shift + weight * gain

    def _box(self, cells: Bools) -> RelativeBox:
        rows, cols = np.divmod(self._water.index[cells], COLS)
        x1, y1, x2, y2 = self._water.box
        wide, high = (x2 - x1) / COLS, (y2 - y1) / ROWS
        return (
            float(x1 + wide * cols.min()),
            float(y1 + high * rows.min()),
            float(x1 + wide * (cols.max() + 1)),
            float(y1 + high * (rows.max() + 1)),
        )

    def _signature(self) -> list[Json]:
        outlined = self.parameters.water
        return [
            [list(point) for point in outlined] if outlined is not None else None,
            [[list(point) for point in polygon] for polygon in self.parameters.reference],
        ]

    def state(self) -> dict[str, Json]:
        """The normals by hour: base64 of little-endian int16, logarithms and delta E in thousandths."""
        return {
            "version": 1,
            "zones": self._signature(),
            "hours": {
                str(hour): [
                    _pack(normal.water),
                    _pack(np.minimum(normal.noise, 30.0)),
                    _pack(normal.roughness / 10),
                    _pack(normal.reference),
                ]
                for hour, normal in sorted(self._normals.items())
            },
            "frozen_since": self._frozen_since,
            "found": [
                [[list(point) for point in polygon] for polygon in part] for part in self._found
            ],
        }

    def restore(self, state: dict[str, Json]) -> None:
        """Take the normals back, unless the zones were redrawn since."""
        hours = state.get("hours")
        if state.get("version") != 1 or state.get("zones") != self._signature():
            return
        if not isinstance(hours, dict):
            return
        if self.active_model is not None:
            try:
                found = _OUTLINE.validate_python(state.get("found"))
            except ValidationError:
                return
            if not found[0]:
                return
            self._found = found
            self._settle(*found)
        n, m = len(self._water), len(self._dry)
        try:
            restored = {
                int(hour) % 24: _Normal(
                    _unpack(packed[0]).reshape(n, 3),
                    _unpack(packed[1]).reshape(n),
                    _unpack(packed[2]).reshape(n) * 10,
                    _unpack(packed[3]).reshape(m, 3),
                )
                for hour, packed in hours.items()
                if isinstance(packed, list) and len(packed) == 4
            }
        except (ValueError, TypeError, binascii.Error):
            return
        self._normals = restored
        frozen = state.get("frozen_since")
        self._frozen_since = float(frozen) if isinstance(frozen, int | float) else None


def _colourfulness(image: Image) -> float:
    """Mean difference of the channels in levels."""
    small = cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA).astype(np.int16)
    return float(np.abs(small - small[:, :, 1:2]).mean())


def _water_mask(scene: Scene) -> Bools:
    """The water as the segmentation model sees it, (h, w) bool."""
    detections = scene.detections
    if detections is None or not isinstance(detections.mask, np.ndarray) or not len(detections):
        return np.zeros(scene.frame.image.shape[:2], bool)
    sure = np.ones(len(detections), bool)
    if detections.confidence is not None:
        sure = detections.confidence >= scene.thresholds.get("water", 0.0)
    return np.asarray(detections.mask[sure].any(axis=0), bool)


def _log_gains(readings: Sequence[_Reading], reference: Floats) -> Floats:
    """Logarithm of the light's change in each reading, (k, 3).

    The median over the usable dry tiles, so that a few shaded ones are idle; 0 where none is usable.
    """
    usable = np.array([reading.usable for reading in readings])  # (k, m)
    if not usable.any():
        return np.zeros((len(readings), 3))
    ratio = np.array([reading.reference for reading in readings]) - reference  # (k, m, 3)
    ratio[~usable] = np.inf  # sorts behind the usable ones
    ratio.sort(axis=1)
    count, rows = usable.sum(axis=1), np.arange(len(readings))
    gains = (ratio[rows, (count - 1) // 2] + ratio[rows, count // 2]) / 2
    gains[count == 0] = 0.0
    return np.asarray(gains)


def _limited(change: Floats) -> Floats:
    """A change of which one frame is believed no more than `INNOVATION`."""
    return np.minimum(np.maximum(change, -INNOVATION), INNOVATION)


def _pack(values: Floats) -> str:
    return base64.b64encode(np.round(values * 1000).astype("<i2").tobytes()).decode()


def _unpack(text: Json) -> Floats:
    if not isinstance(text, str):
        raise ValueError("expected base64 text")
    return np.frombuffer(base64.b64decode(text, validate=True), "<i2").astype(np.float64) / 1000
