"""An e-bike in an elevator cabin.

The rule stage needs to know one thing: is there an e-bike in the cabin at `t`? Three questions decide it for every
two-wheeler that is followed over time (a *suspect*):

* **What is it?** Bicycles, children's bicycles, wheelchairs and prams look like e-bikes for single frames. Every
  inferred frame casts votes, by confidence squared, for the classes whose boxes lie on the suspect; votes fade over
  seconds. It is an e-bike while e-bike votes are a clear majority. One frame over the operating point may start the
  condition, boxes under it only keep one that at least two such frames started.
* **Where is it?** The mean of two shares: of its box in the cabin polygon, and of its *foot* in it. With a wall
  camera the foot is the lowest quarter of the box, where the wheels stand; a cabin e-bike before the open door has its
  handlebar over the hall but its wheels on the cabin floor, a hall e-bike the reverse. Straight below a wide ceiling
  lens "up" is away from the picture's centre, so the bottom of a box may be the handlebar: there the foot is the
  middle of the box. The decision is held between two levels, so that a wheel on the sill does not flicker.
* **Is it still there?** A person stepping before it, lamps that flicker with the door or a missed frame do not end
  it: unseen it is *held* while nothing moved or a person stands over it, then *unknown* for a moment, then clear.
  A suspect that was seen to leave is clear at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.analyse.geometry import (
    Region,
    bottom_strip,
    box_area,
    box_shift,
    centre_patch,
    overlap_of_smaller,
    relative_boxes,
    share_covered,
)
from pipeline.analyse.scenario import CameraContext, Need, Scenario, ScenarioParameters, Scene
from pipeline.frame import Image
from pipeline.observation import Condition, Json, Observation, RelativeBox
from pipeline.units import Duration, Polygon

__all__ = ["EbikeInElevator", "EbikeInElevatorParameters"]

SUBJECT = "zone:cabin"
GONE = "gone"
WHOLE_PICTURE: Polygon = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))

# A ride lasts tens of seconds, a pass of the door two: votes must be able to turn within the latter.
VOTE_MEMORY_S = 4.0
# A two-wheeler whose rivals' votes come near its own is in doubt; between the levels the last verdict stands.
EBIKE_SHARE_START = 0.65
EBIKE_SHARE_KEEP = 0.5
# Half the box and foot inside is the sill; the band around it is about a wheel's width.
ENTER_SHARE = 0.6
LEAVE_SHARE = 0.4
FOOT_SHARE = 0.25
CENTRE_SHARE = 0.5
# Votes of two frames over the operating point that are up to a second apart: 1 + exp(-1/4).
PROVEN_VOTES = 1.75
# Mean confidence below half the operating point: the frames that started the condition were flukes.
KEEP_CONFIDENCE = 0.5
# The same object in two frames at 1-5 Hz; pushing a bike moves it by half its length per second.
FOLLOW_SHIFT = 0.6
# Two class boxes on one object (a rider's box covers the bicycle's only in part).
RIVAL_OVERLAP = 0.7
# Detectors lose a still object for a second or two when lamps change with the door.
GRACE_S = 3.0
# A person may stand before the e-bike for a whole ride; a ride in a tall house takes about a minute.
OCCLUDED_S = 60.0
OCCLUDED_SHARE = 0.5
# Nothing moved, yet the detector no longer sees it: believed for the length of a ride stop.
STILL_HOLD_S = 30.0
# A cabin whose lamp is off shows nothing; 8-bit video black is 16.
DARK_LUMA = 20.0
DARK_STRIDE_PX = 8
# After the last movement doors are about to open or have just closed.
LIVELY_S = 5.0


class EbikeInElevatorParameters(ScenarioParameters):
    """Parameters of `ebike_in_elevator`.

    Attributes:
        cabin: The cabin in the picture. Draw it along the sill: what lies beyond the open door is the hall.
        mount: Where the camera hangs: on a ``wall`` (or in a corner, looking across), or on the ``ceiling`` above the
            floor, looking straight down.
        include_bicycles: Whether bicycles without a motor raise, too.
        min_box_area: Smallest box that counts, as a share of the picture; smaller ones are far beyond the door.
        enter_share: Inside share from which an e-bike is in the cabin.
        leave_share: Inside share below which it is out again.
    """

    raise_after: Duration = 1.5
    min_ratio: float = Field(default=0.6, gt=0, le=1)
    clear_after: Duration = 8.0
    cooldown: Duration = 30.0
    max_gap: Duration = 5.0
    cabin: Polygon = WHOLE_PICTURE
    mount: Literal["wall", "ceiling"] = "wall"
    include_bicycles: bool = False
    min_box_area: float = Field(default=0.01, ge=0, lt=1)
    enter_share: float = Field(default=ENTER_SHARE, gt=0, le=1)
    leave_share: float = Field(default=LEAVE_SHARE, ge=0, lt=1)

    @model_validator(mode="after")
    def _band(self) -> Self:
        if not self.leave_share < self.enter_share:
            raise ValueError(
                f"expected leave_share below enter_share ({self.enter_share:g}), "
                f"found {self.leave_share:g}"
            )
        return self


@dataclass(slots=True)
class _Box:
    """One detection of an inferred frame."""

    box: RelativeBox
    name: str
    confidence: float
    tracker_id: int


@dataclass(slots=True)
class _Suspect:
    """One two-wheeler, followed over frames."""

    box: RelativeBox
    tracker_id: int
    seen_t: float
    voted_t: float
    votes: dict[str, float] = field(default_factory=dict)
    frames: float = 0.0
    strong: float = 0.0
    confidence: float = 0.0
    score: float = 0.0
    inside_share: float = 0.0
    inside: bool = False
    is_ebike: bool = False
    proven: bool = False


class EbikeInElevator(Scenario[EbikeInElevatorParameters]):
    """Holds for `zone:cabin` while at least one e-bike is in the cabin."""

    id: ClassVar[str] = "ebike_in_elevator"
    title: ClassVar[dict[str, str]] = {"zh": "电动车进入电梯", "en": "E-bike in elevator"}
    Parameters: ClassVar[type[ScenarioParameters]] = EbikeInElevatorParameters
    model: ClassVar[str | None] = "vehicles"
    replayed: ClassVar[frozenset[str] | None] = frozenset(
        {"severity", "active", "cabin", "mount", "include_bicycles", "min_box_area"}
        | {"enter_share", "leave_share"}
    )
    reads_rule: ClassVar[frozenset[str]] = frozenset({"max_gap"})

    def __init__(self, camera: CameraContext, parameters: EbikeInElevatorParameters) -> None:
        super().__init__(camera, parameters)
        self._cabin = Region(parameters.cabin)
        self._targets = {"ebike", "bicycle"} if parameters.include_bicycles else {"ebike"}
        self._rivals = {"ebike", "bicycle", "wheelchair"} - self._targets
        self._suspects: list[_Suspect] = []
        self._inferred_t = -math.inf
        self._lively_t = -math.inf
        self._persons = 0

    def need(self, t: float) -> Need:
        """5 Hz while something moves or a suspect is about, else 1.5 Hz; a suspect in doubt is inferred again."""
        lively = bool(self._suspects) or t - self._lively_t < LIVELY_S
        in_doubt = any(s.is_ebike != s.proven or t - s.seen_t > 0.5 for s in self._suspects)
        return Need(rate_hz=5.0 if lively else 1.5, inference=in_doubt)

    def interrupt(self, t: float) -> list[Observation]:
        """Unknown until the stream returns."""
        return [
            self._observation(t, Condition.UNKNOWN, 0.0, None, {"reason": "stream interrupted"})
        ]

    def observe(self, scene: Scene) -> list[Observation]:
        """One observation of `zone:cabin`."""
        t = scene.frame.t
        if scene.motion.moved:
            self._lively_t = t
        if scene.detections is None:
            return [
                self._observation(t, Condition.UNKNOWN, 0.0, None, {"reason": "model unavailable"})
            ]
        if scene.detections_t > self._inferred_t:
            self._inferred_t = scene.detections_t
            self._follow(scene)
        elif t - scene.detections_t > self.parameters.max_gap:
            return [
                self._observation(t, Condition.UNKNOWN, 0.0, None, {"reason": "result too old"})
            ]
        if not self.is_active(t):
            detail: dict[str, Json] = {"reason": "outside active hours"}
            return [self._observation(t, Condition.CLEAR, 1.0, None, detail)]
        return [self._decide(scene)]

    # -- following -----------------------------------------------------------------------------------------------

    def _follow(self, scene: Scene) -> None:
        """Match the boxes of a newly inferred frame to suspects and cast their votes."""
        t = scene.detections_t
        boxes = self._boxes(scene)
        self._persons = sum(
            box.name == "person"
            and box.confidence >= scene.thresholds.get("person", 0.0)
            and self._cabin.share(box.box) >= LEAVE_SHARE
            for box in boxes
        )
        wheels = [b for b in boxes if b.name in self._targets and self._large(b.box)]
        rivals = [b for b in boxes if b.name in self._rivals]
        wheels.sort(key=lambda b: b.confidence, reverse=True)
        taken: list[_Suspect] = []
        for wheel in wheels:
            if any(overlap_of_smaller(wheel.box, s.box) >= RIVAL_OVERLAP for s in taken):
                continue  # a second, weaker box on the same object
            suspect = self._match(wheel, taken, t)
            if suspect is None:
                suspect = _Suspect(wheel.box, wheel.tracker_id, seen_t=t, voted_t=t)
                self._suspects.append(suspect)
            taken.append(suspect)
            self._fade(suspect, t)
            operating = scene.thresholds.get(wheel.name, 0.0)
            self._see(suspect, wheel, rivals, operating, t)
        for suspect in self._suspects:
            if not any(suspect is s for s in taken):
                self._miss(suspect, rivals, t)
        self._suspects = [
            s
            for s in self._suspects
            if t - s.seen_t <= (OCCLUDED_S if s.inside and s.proven else GRACE_S)
        ]

    def _boxes(self, scene: Scene) -> list[_Box]:
        detections = scene.detections
        if detections is None or len(detections) == 0:
            return []
        frame = scene.frame
        boxes = relative_boxes(detections.xyxy, frame.width_px, frame.height_px)
        names = detections.data["class_name"]
        ids = detections.tracker_id
        confidences = detections.confidence
        return [
            _Box(
                box,
                str(names[i]),
                float(confidences[i]) if confidences is not None else 1.0,
                int(ids[i]) if ids is not None else -1,
            )
            for i, box in enumerate(boxes)
        ]

    def _large(self, box: RelativeBox) -> bool:
        return box_area(box) >= self.parameters.min_box_area

    def _match(self, wheel: _Box, taken: list[_Suspect], t: float) -> _Suspect | None:
        """The suspect that this box continues: its own track, else the nearest one within reach."""
        free = [s for s in self._suspects if not any(s is other for other in taken)]
        for suspect in free:
            if wheel.tracker_id >= 0 and suspect.tracker_id == wheel.tracker_id:
                return suspect
        near = [
            (box_shift(s.box, wheel.box), i)
            for i, s in enumerate(free)
            if box_shift(s.box, wheel.box) <= FOLLOW_SHIFT * min(max(t - s.seen_t, 1.0), 2.0)
        ]
        return free[min(near)[1]] if near else None

    @staticmethod
    def _fade(suspect: _Suspect, t: float) -> None:
        keep = math.exp(-max(0.0, t - suspect.voted_t) / VOTE_MEMORY_S)
        suspect.votes = {name: votes * keep for name, votes in suspect.votes.items()}
        suspect.frames *= keep
        suspect.strong *= keep
        suspect.score *= keep
        suspect.voted_t = t

    def _see(
        self, suspect: _Suspect, wheel: _Box, rivals: list[_Box], operating: float, t: float
    ) -> None:
        suspect.box, suspect.tracker_id, suspect.seen_t = wheel.box, wheel.tracker_id, t
        suspect.confidence = wheel.confidence
        suspect.frames += 1.0
        suspect.score += wheel.confidence
        suspect.strong += wheel.confidence >= operating
        _vote(suspect, wheel.name, wheel.confidence)
        self._vote_rivals(suspect, rivals)
        self._judge(suspect, operating)
        suspect.inside_share = self._inside_share(wheel.box)
        if suspect.inside_share >= self.parameters.enter_share:
            suspect.inside = True
        elif suspect.inside_share < self.parameters.leave_share:
            suspect.inside = False

    def _miss(self, suspect: _Suspect, rivals: list[_Box], t: float) -> None:
        """No e-bike box on the suspect: a rival's box there is a vote against it, no box at all is none."""
        self._fade(suspect, t)
        if self._vote_rivals(suspect, rivals):
            ebike_share = self._ebike_share(suspect)
            suspect.is_ebike = suspect.is_ebike and ebike_share >= EBIKE_SHARE_KEEP
            suspect.proven = suspect.proven and suspect.is_ebike

    def _vote_rivals(self, suspect: _Suspect, rivals: list[_Box]) -> bool:
        best: dict[str, float] = {}
        for rival in rivals:
            if overlap_of_smaller(rival.box, suspect.box) >= RIVAL_OVERLAP:
                best[rival.name] = max(best.get(rival.name, 0.0), rival.confidence)
        for name, confidence in best.items():
            _vote(suspect, name, confidence)
        return bool(best)

    def _ebike_share(self, suspect: _Suspect) -> float:
        total = sum(suspect.votes.values())
        wanted = sum(votes for name, votes in suspect.votes.items() if name in self._targets)
        return wanted / total if total > 0 else 0.0

    def _judge(self, suspect: _Suspect, operating: float) -> None:
        share = self._ebike_share(suspect)
        strong_now = suspect.confidence >= operating
        mean = suspect.score / suspect.frames
        if suspect.is_ebike:
            suspect.is_ebike = share >= EBIKE_SHARE_KEEP and mean >= KEEP_CONFIDENCE * operating
        else:
            suspect.is_ebike = share >= EBIKE_SHARE_START and strong_now
        suspect.proven = suspect.is_ebike and (suspect.proven or suspect.strong >= PROVEN_VOTES)

    def _inside_share(self, box: RelativeBox) -> float:
        wall = self.parameters.mount == "wall"
        foot = bottom_strip(box, FOOT_SHARE) if wall else centre_patch(box, CENTRE_SHARE)
        return (self._cabin.share(box) + self._cabin.share(foot)) / 2

    # -- deciding ------------------------------------------------------------------------------------------------

    def _decide(self, scene: Scene) -> Observation:
        t = scene.frame.t
        # Asked whether it is needed or not, so that a replay with another cabin has it.
        dark = scene.look("dark", lambda: _is_dark(scene.frame.image))
        verdicts = [(*self._verdict(s, scene, dark=dark), s) for s in self._suspects]
        self._suspects = [s for _, reason, s in verdicts if reason != GONE]
        holding = [(reason, s) for condition, reason, s in verdicts if condition is Condition.HOLDS]
        unsure = [
            (reason, s) for condition, reason, s in verdicts if condition is Condition.UNKNOWN
        ]
        if holding:
            reason, suspect = max(holding, key=lambda pair: self._strength(pair[1]))
            detail = self._detail(suspect, reason, len(holding))
            confidence = self._strength(suspect)
            return self._observation(t, Condition.HOLDS, confidence, suspect.box, detail)
        if unsure:
            reason, suspect = max(unsure, key=lambda pair: self._strength(pair[1]))
            detail = self._detail(suspect, reason, 0)
            return self._observation(t, Condition.UNKNOWN, 0.0, suspect.box, detail)
        if verdicts:
            reason, suspect = max(
                ((reason, s) for _, reason, s in verdicts), key=lambda p: self._strength(p[1])
            )
            detail = self._detail(suspect, reason, 0)
            confidence = 1.0 - self._strength(suspect) * suspect.inside_share
            return self._observation(t, Condition.CLEAR, confidence, None, detail)
        empty: dict[str, Json] = {"reason": "no e-bike seen", "persons": self._persons}
        return self._observation(t, Condition.CLEAR, 1.0, None, empty)

    def _verdict(self, suspect: _Suspect, scene: Scene, *, dark: bool) -> tuple[Condition, str]:
        if not suspect.inside:
            return Condition.CLEAR, "outside the cabin"
        if not suspect.is_ebike:
            return Condition.CLEAR, "not an e-bike"
        unseen_s = self._inferred_t - suspect.seen_t
        if unseen_s <= 0:
            if suspect.proven or suspect.confidence >= suspect.score / suspect.frames:
                return Condition.HOLDS, "seen"
            return Condition.UNKNOWN, "seen once"
        if not suspect.proven:
            return Condition.UNKNOWN, "lost before it was proven"
        if unseen_s <= STILL_HOLD_S and scene.motion.still_s >= scene.frame.t - suspect.seen_t:
            return Condition.HOLDS, "nothing moved since it was seen"
        if self._behind_person(suspect, scene):
            held = unseen_s <= GRACE_S
            return (Condition.HOLDS if held else Condition.UNKNOWN), "behind a person"
        if unseen_s <= GRACE_S:
            return Condition.UNKNOWN, "missed"
        if dark:
            return Condition.UNKNOWN, "dark"
        return Condition.CLEAR, GONE

    def _behind_person(self, suspect: _Suspect, scene: Scene) -> bool:
        return any(
            b.name == "person" and share_covered(suspect.box, b.box) >= OCCLUDED_SHARE
            for b in self._boxes(scene)
        )

    def _strength(self, suspect: _Suspect) -> float:
        mean = suspect.score / suspect.frames if suspect.frames > 0 else 0.0
        return min(1.0, mean * self._ebike_share(suspect))

    def _detail(self, suspect: _Suspect, reason: str, count: int) -> dict[str, Json]:
        mean = suspect.score / suspect.frames if suspect.frames > 0 else 0.0
        return {
            # A word that changes is news to the rule; how a lasting condition is confirmed is none.
            **({"evidence": [reason]} if count else {"reason": reason}),
            "count": count,
            "persons": self._persons,
            "score": round(mean, 3),
            "inside_share": round(suspect.inside_share, 3),
            "votes": {name: round(votes, 2) for name, votes in sorted(suspect.votes.items())},
        }

    def _observation(
        self,
        t: float,
        condition: Condition,
        confidence: float,
        box: RelativeBox | None,
        detail: dict[str, Json],
    ) -> Observation:
        return Observation(
            scenario=self.id,
            camera_id=self.camera.id,
            subject=SUBJECT,
            t=t,
            condition=condition,
            confidence=confidence,
            box=box,
            detail=detail,
        )


def _vote(suspect: _Suspect, name: str, confidence: float) -> None:
    """Votes are squares: the weak second box that class-aware suppression leaves on an object says little."""
    suspect.votes[name] = suspect.votes.get(name, 0.0) + confidence**2


def _is_dark(image: Image) -> bool:
    """Whether the picture is so dark that nothing could be detected; every eighth pixel is enough to tell."""
    return float(np.mean(image[::DARK_STRIDE_PX, ::DARK_STRIDE_PX])) < DARK_LUMA
