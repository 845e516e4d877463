"""Whether a camera still shows what it was put there to show: dead, frozen, covered or turned."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections import OrderedDict
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.frame import Frame, Image
from pipeline.observation import Condition, Json, Observation
from pipeline.rule_parameters import RuleParameters
from pipeline.units import Duration

__all__ = ["SCENARIO", "SUBJECTS", "CameraHealth", "HealthParameters"]

SCENARIO = "camera_health"
SUBJECTS = ("dead", "frozen", "covered", "turned")

# Working size: enough cells for a significant correlation, little enough for dozens of cameras at 1 Hz.
WIDTH, HEIGHT = 128, 72
# Cameras write clock and name near the upper and lower rim; lettering does not turn with the view.
RIM = 7
BLOCKS = 4
# Added to the brightness that contrast is divided by: bounds it in the dark.
DARK_FLOOR = 8.0
# Grey levels per cell that sensor noise alone makes after the reduction to the working size.
NOISE_LEVELS = 0.75
# Relative contrast per cell at which an orientation counts fully.
FIRM_CONTRAST = 0.08
# A picture in which fewer cells have a firm orientation shows nothing that could be compared.
FIRM_SHARE = 0.02
# A block with less detail than this in the reference (sky, bare wall) cannot lose any.
BARE_DETAIL = 0.01
# Share of its detail that a block keeps under a cover; fog and rain leave about half, a hand, bag or paint a tenth.
LOST_DETAIL = 0.25
# Standard deviations of the correlation surface. On six surveillance clips another view gave at most 3.4 within reach
# of zero shift, the same view 20 to 60 in changing light and 6 to 43 in simulated infrared.
ALIGNED_SIGMA = 5.0
# A fit elsewhere that is so much better than the one in place is a displacement, even where lettering still fits.
DISPLACED = 1.4
# Samples before a reference is judged against: half a minute at 1 Hz, so that a passing bus is not learned.
LEARN_SAMPLES = 30
# The reference of detail follows dusk, but not a hand; that of the view follows the hours of a day.
DETAIL_TAU_S = 120.0
VIEW_TAU_S = 3600.0
# After a longer absence the light may be another: detail is learned anew, the view is still compared.
STALE_S = 1800.0
# Hashes of pictures remembered: a frozen camera's encoder repeats its group of pictures, so several come round.
REMEMBERED = 512
# A picture that a hung sensor's encoder makes anew differs from the one before by less than this in every cell.
STILL_LEVELS = 1.5
STILL_FACTOR = 6.0
# Pictures of one group, coded from the same scene, differ by less than this in every cell.
REPEAT_LEVELS = 8.0
DARK_LEVEL = 20.0

Complex = npt.NDArray[np.complex64]
Grey = npt.NDArray[np.float32]


class HealthParameters(RuleParameters):
    """Rule and thresholds for the cameras themselves.

    Attributes:
        severity: Of the ticket.
        dead_after: Seconds without a frame until a camera counts as dead; `raise_after` comes on top.
        frozen_after: Seconds of exactly repeating pictures until it counts as frozen (six times as long for pictures
            that only look the same, as a quiet night does).
        covered_fraction: Share of the once detailed parts of the picture that must have lost their detail.
        dark_counts: Whether sudden darkness counts as covered; false where the light is switched off at times.
        turned_shift: Displacement, as a share of the picture's width, up to which the view counts as the same.
        adopt_after: Seconds after which a lastingly changed view becomes the new reference.
    """

    raise_after: Duration = 30.0
    min_ratio: float = Field(default=0.8, gt=0, le=1)
    clear_after: Duration = 30.0
    cooldown: Duration = 300.0
    max_gap: Duration = 30.0
    severity: Literal["minor", "major", "critical"] = "minor"
    dead_after: Duration = 30.0
    frozen_after: Duration = Field(default=300.0, gt=0)
    covered_fraction: float = Field(default=0.6, gt=0, le=1)
    dark_counts: bool = True
    turned_shift: float = Field(default=0.03, gt=0, lt=0.5)
    adopt_after: Duration = 43_200.0


class CameraHealth:
    """Judges one camera from about one frame a second and from how long it has been silent.

    It never reads a clock. Covered: the detail, measured as contrast relative to brightness and hence whatever the
    light, collapses in most blocks against a reference that follows dusk. Turned: orientation correlation (Fitch,
    Kadyrov, Christmas and Kittler, BMVC 2002) with doubled angles, which neither brightness nor a reversed contrast
    (infrared) disturbs, has no significant peak near zero shift any more. Frozen: the same picture repeats bit for bit.

    Args:
        camera_id: The camera's id.
        parameters: Thresholds.
    """

    #: Frames per second that it wants.
    rate_hz = 1.0

    def __init__(self, camera_id: str, parameters: HealthParameters | None = None) -> None:
        self._camera_id = camera_id
        self._parameters = parameters or HealthParameters()
        self._last_frame_t: float | None = None
        self._detail: Grey | None = None
        self._detail_samples = 0
        self._view: Complex | None = None
        self._view_samples = 0
        self._changed_since: float | None = None
        self._hashes: OrderedDict[int, None] = OrderedDict()
        self._repeating_since: float | None = None
        self._repeated: Grey | None = None
        self._still: Grey | None = None
        self._still_since = 0.0

    # -- observing -------------------------------------------------------------------------------------------------

    def silent(self, t: float, since_s: float, reason: str = "") -> list[Observation]:
        """Observations at `t` from the reader alone; call it about once a second whether or not frames come.

        Args:
            t: Seconds since the Unix epoch.
            since_s: Seconds for which no frame has come.
            reason: Why, in one line without secrets.
        """
        dead = since_s >= self._parameters.dead_after
        detail: dict[str, Json] = {"silent_s": round(since_s, 1)}
        if reason:
            detail["reason"] = reason
        observations = [self._observation("dead", t, _condition(dead), 1.0, detail)]
        if dead:
            observations += [
                self._observation(subject, t, Condition.UNKNOWN, 0.0, {})
                for subject in SUBJECTS[1:]
            ]
        return observations

    def observe(self, frame: Frame) -> list[Observation]:
        """Observations of all four subjects at `frame.t`."""
        t = frame.t
        step_s = 1.0 if self._last_frame_t is None else max(0.0, t - self._last_frame_t)
        if step_s > STALE_S:
            self._detail, self._detail_samples = None, 0
        self._last_frame_t = t
        grey = _grey(frame.image)
        contrast, orientations = _contrast(grey)
        covered = self._covered(t, grey, contrast, orientations)
        turned = self._turned(t, orientations, covered.condition)
        frozen = self._frozen(t, frame.image, grey)
        changed = Condition.HOLDS in (covered.condition, turned.condition)
        self._adopt(t, changed)
        if not changed:
            self._learn(contrast, orientations, step_s)
        return [self._observation("dead", t, Condition.CLEAR, 1.0, {}), frozen, covered, turned]

    def _covered(self, t: float, grey: Grey, contrast: Grey, orientations: Complex) -> Observation:
        if self._detail is None or self._view is None or self._detail_samples < LEARN_SAMPLES:
            return self._observation("covered", t, Condition.UNKNOWN, 0.0, {"learning": True})
        rich = self._detail > BARE_DETAIL
        if np.count_nonzero(rich) < BLOCKS * BLOCKS / 4:
            return self._observation("covered", t, Condition.UNKNOWN, 0.0, {"bare": True})
        lost = _blocks(contrast)[rich] < LOST_DETAIL * self._detail[rich]
        fraction = float(np.mean(lost))
        brightness = float(grey.mean())
        detail: dict[str, Json] = {
            "lost_fraction": round(fraction, 3),
            "brightness": round(brightness, 1),
        }
        holds = fraction >= self._parameters.covered_fraction
        firm = float(np.abs(orientations).mean()) >= FIRM_SHARE
        if (
            holds
            and firm
            and self._in_place(_alignment(self._view, orientations)) >= 2 * ALIGNED_SIGMA
        ):
            holds = False  # fog or infrared: weaker, but the same view can still be made out
            detail["recognised"] = True
        if holds and brightness < DARK_LEVEL and not self._parameters.dark_counts:
            return self._observation("covered", t, Condition.UNKNOWN, 0.0, {**detail, "dark": True})
        confidence = fraction if holds else 1.0 - fraction
        return self._observation("covered", t, _condition(holds), confidence, detail)

    def _turned(self, t: float, orientations: Complex, covered: Condition) -> Observation:
        if self._view is None or self._view_samples < LEARN_SAMPLES:
            return self._observation("turned", t, Condition.UNKNOWN, 0.0, {"learning": True})
        if covered is Condition.HOLDS:
            return self._observation("turned", t, Condition.UNKNOWN, 0.0, {"covered": True})
        firm = float(np.abs(orientations).mean())
        # Darkness, fog, or water and sky alone: nothing to hold on to, now or ever.
        if firm < FIRM_SHARE or _alignment(self._view, self._view).max() < 3 * ALIGNED_SIGMA:
            return self._observation("turned", t, Condition.UNKNOWN, 0.0, {"bare": True})
        surface = _alignment(self._view, orientations)
        centre_y, centre_x = surface.shape[0] // 2, surface.shape[1] // 2
        in_place, best = self._in_place(surface), float(surface.max())
        peak_y, peak_x = np.unravel_index(int(surface.argmax()), surface.shape)
        detail: dict[str, Json] = {
            "in_place_sigma": round(in_place, 1),
            "best_sigma": round(best, 1),
        }
        if best >= ALIGNED_SIGMA:
            detail["shift_x"] = round(float(peak_x - centre_x) / WIDTH, 3)
            detail["shift_y"] = round(float(peak_y - centre_y) / HEIGHT, 3)
        holds = in_place < ALIGNED_SIGMA or best > DISPLACED * in_place
        fit = min(1.0, max(0.0, in_place / max(best, 3 * ALIGNED_SIGMA)))
        confidence = 1.0 - fit if holds else max(0.5, fit)
        return self._observation("turned", t, _condition(holds), confidence, detail)

    def _in_place(self, surface: Grey) -> float:
        """Highest correlation within reach of zero shift."""
        reach = max(1, round(self._parameters.turned_shift * WIDTH))
        y, x = surface.shape[0] // 2, surface.shape[1] // 2
        return float(surface[y - reach : y + reach + 1, x - reach : x + reach + 1].max())

    def _frozen(self, t: float, image: Image, grey: Grey) -> Observation:
        digest = zlib.crc32(np.ascontiguousarray(image).data)
        repeats = digest in self._hashes
        self._hashes[digest] = None
        self._hashes.move_to_end(digest)
        if len(self._hashes) > REMEMBERED:
            self._hashes.popitem(last=False)
        if not repeats or _difference(grey, self._repeated) > REPEAT_LEVELS:
            # A clip played in a loop repeats too, but not the same picture.
            self._repeating_since, self._repeated = t if repeats else None, grey
        elif self._repeating_since is None:
            self._repeating_since = t
        if _difference(grey, self._still) > STILL_LEVELS:
            self._still, self._still_since = grey, t
        if (
            float(grey.std()) < 1.0
        ):  # black or blank: covered's business, and every such picture looks the same
            self._repeating_since, self._still_since = None, t
            return self._observation("frozen", t, Condition.UNKNOWN, 0.0, {"blank": True})
        repeating_s = 0.0 if self._repeating_since is None else t - self._repeating_since
        still_s = t - self._still_since
        wanted_s = self._parameters.frozen_after
        holds = repeating_s >= wanted_s or still_s >= STILL_FACTOR * wanted_s
        detail: dict[str, Json] = {"repeating_s": round(repeating_s), "still_s": round(still_s)}
        confidence = 1.0 if repeating_s >= wanted_s or not holds else 0.7
        return self._observation("frozen", t, _condition(holds), confidence, detail)

    def _learn(self, contrast: Grey, orientations: Complex, step_s: float) -> None:
        blocks = _blocks(contrast)
        if self._detail is None:
            self._detail = np.zeros_like(blocks)
        self._detail_samples += 1
        weight = _weight(self._detail_samples, step_s, DETAIL_TAU_S)
        self._detail += weight * (blocks - self._detail)
        if self._view is None:
            self._view = np.zeros_like(orientations)
        self._view_samples += 1
        weight = _weight(self._view_samples, step_s, VIEW_TAU_S)
        self._view += np.complex64(weight) * (orientations - self._view)

    def _adopt(self, t: float, changed: bool) -> None:
        if not changed:
            self._changed_since = None
        elif self._changed_since is None:
            self._changed_since = t
        elif t - self._changed_since >= self._parameters.adopt_after:
            self.forget()

    def forget(self) -> None:
        """Learn the view anew, after the camera was aimed elsewhere on purpose."""
        self._detail, self._detail_samples = None, 0
        self._view, self._view_samples = None, 0
        self._changed_since = None

    def _observation(
        self,
        subject: str,
        t: float,
        condition: Condition,
        confidence: float,
        detail: dict[str, Json],
    ) -> Observation:
        return Observation(
            SCENARIO, self._camera_id, subject, t, condition, round(confidence, 3), detail=detail
        )

    # -- surviving restarts ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Json]:
        """The references as JSON, about 15 KB."""
        if self._view is None or self._detail is None:
            return {}
        # Orientations lie in the unit circle: a byte per axis is finer than they are known.
        pairs = np.stack([self._view.real, self._view.imag])
        packed = zlib.compress(np.round(pairs * 127).astype(np.int8).tobytes())
        return {
            "version": 1,
            "t": self._last_frame_t,
            "detail": [round(float(value), 5) for value in self._detail.ravel()],
            "detail_samples": self._detail_samples,
            "view": base64.b64encode(packed).decode("ascii"),
            "view_samples": self._view_samples,
            "changed_since": self._changed_since,
        }

    def restore(self, state: dict[str, Json]) -> None:
        """Take back what `state` gave; unreadable state is ignored."""
        try:
            if state["version"] != 1:
                return
            detail = np.array(state["detail"], dtype=np.float32).reshape(BLOCKS, BLOCKS)
            raw = zlib.decompress(base64.b64decode(str(state["view"]), validate=True))
            pairs = np.frombuffer(raw, dtype=np.int8).astype(np.float32) / 127
            pairs = pairs.reshape(2, HEIGHT - 2 * RIM, WIDTH)
            samples = int(str(state["detail_samples"])), int(str(state["view_samples"]))
            t = float(str(state["t"]))
            since = state["changed_since"]
            changed_since = None if since is None else float(str(since))
        except (KeyError, ValueError, TypeError, zlib.error, binascii.Error):
            return
        if not (np.isfinite(detail).all() and math.isfinite(t)):
            return
        self._detail, self._view = detail, (pairs[0] + 1j * pairs[1]).astype(np.complex64)
        self._detail_samples, self._view_samples = samples
        self._last_frame_t, self._changed_since = t, changed_since


def _difference(one: Grey, other: Grey | None) -> float:
    """Greatest difference of any cell in grey levels."""
    return float("inf") if other is None else float(np.abs(one - other).max())


def _condition(holds: bool) -> Condition:
    return Condition.HOLDS if holds else Condition.CLEAR


def _weight(samples: int, step_s: float, tau_s: float) -> float:
    """Of the next sample: a plain mean at first, then an exponential one with time constant `tau_s`."""
    return max(1.0 / samples, 1.0 - math.exp(-step_s / tau_s))


def _grey(image: Image) -> Grey:
    """(HEIGHT, WIDTH) float32, 0..255."""
    small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    grey: Grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return grey


def _contrast(grey: Grey) -> tuple[Grey, Complex]:
    """Contrast per cell relative to brightness, and its orientation, without the lettered rims.

    The orientation is a unit vector at twice the gradient's angle, shortened where the contrast is weak.
    """
    smooth = cv2.GaussianBlur(grey, (3, 3), 0)
    # Sobel's 3x3 weights sum to 8 on one axis: divided out to get the slope per cell.
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)[RIM:-RIM] / 8
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)[RIM:-RIM] / 8
    slope = np.hypot(gx, gy)
    contrast: Grey = np.maximum(0.0, slope - NOISE_LEVELS) / (smooth[RIM:-RIM] + DARK_FLOOR)
    doubled = (gx + 1j * gy) ** 2 / np.maximum(slope, 1e-6) ** 2
    orientations: Complex = (doubled * np.minimum(1.0, contrast / FIRM_CONTRAST)).astype(
        np.complex64
    )
    return contrast, orientations


def _alignment(reference: Complex, seen: Complex) -> Grey:
    """Orientation correlation for every shift, zero shift in the middle, in standard deviations of the surface."""
    spectrum = np.conj(np.fft.fft2(reference)) * np.fft.fft2(seen)
    surface = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    # A robust spread: the peak itself must not widen it.
    spread = float(np.median(np.abs(surface - np.median(surface)))) * 1.4826
    aligned: Grey = (surface / max(spread, 1e-6)).astype(np.float32)
    return aligned


def _blocks(contrast: Grey) -> Grey:
    """Mean detail in each of BLOCKS x BLOCKS blocks."""
    blocks: Grey = cv2.resize(contrast, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
    return blocks
