"""What is known of the cause of a false alarm or a miss, from the result alone, and which labels to doubt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from benchmarks.labels import VEHICLE_STOPPED
from benchmarks.texts import Phrase, say

__all__ = ["doubts", "why_false", "why_missed"]

Item: TypeAlias = Mapping[str, Any]
"""A clip, alarm or event as in the JSON document."""

PARKING = "illegal_parking"


def why_false(clip: Item, alarm: Item, window_s: float) -> Phrase:
    """What stands near a false alarm of `clip`."""
    t_s: float = alarm["t_s"]
    for event in clip["unscored_events"]:
        scenario = PARKING if event["scenario"] == VEHICLE_STOPPED else event["scenario"]
        if scenario == alarm["scenario"] and event["start_s"] <= t_s <= event["end_s"] + window_s:
            return say("hint_unscored", reason=event["reason"])
    events = [event for event in clip["events"] if event["scenario"] == alarm["scenario"]]
    if not events:
        return say("hint_nothing")
    nearest = min(events, key=lambda e: max(e["start_s"] - t_s, t_s - e["end_s"]))
    start_s, end_s = nearest["start_s"], nearest["end_s"]
    if t_s < start_s:
        return say("hint_before", gap=f"{start_s - t_s:.1f}")
    if t_s > end_s + window_s:
        return say("hint_after", gap=f"{t_s - end_s:.1f}")
    return say("hint_second", start=f"{start_s:g}", end=f"{end_s:g}")


def why_missed(clip: Item, event: Item) -> Phrase:
    """What the rules made of an event of `clip` that no alarm found."""
    dwell_s = _dwell_s(clip, event["scenario"])
    length_s = event["end_s"] - event["start_s"]
    if length_s < dwell_s:
        return say("hint_short_event", length=f"{length_s:g}", dwell=f"{dwell_s:g}")
    candidates = [
        candidate
        for candidate in clip["suppressed"]
        if candidate["scenario"] == event["scenario"]
        and candidate["since_s"] <= event["end_s"]
        and candidate["t_s"] >= event["start_s"]
    ]
    if candidates:
        return say("hint_suppressed", reason=candidates[-1]["reason"])
    return say("hint_unseen")


def doubts(clip: Item) -> list[tuple[Item, Phrase | str]]:
    """Labels of `clip` that do not count, or that no alarm could find, each with the reason."""
    unscored: list[tuple[Item, Phrase | str]] = [
        (event, event["reason"]) for event in clip["unscored_events"]
    ]
    short = [
        (event, why_missed(clip, event))
        for event in clip["events"]
        if event["outcome"] == "missed"
        and event["end_s"] - event["start_s"] < _dwell_s(clip, event["scenario"])
    ]
    return unscored + short


def _dwell_s(clip: Item, scenario: str) -> float:
    return float(clip["camera"]["scenarios"][scenario]["raise_after"])
