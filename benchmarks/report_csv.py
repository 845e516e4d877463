"""The result as two tables for a spreadsheet: every alarm and missed event, and every clip."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

__all__ = ["write_alarms", "write_clips"]

Document: TypeAlias = Mapping[str, Any]
ALARM_COLUMNS = (
    *("clip", "kind", "group", "conditions", "camera", "scenario", "outcome", "t_s", "since_s"),
    *("confidence", "subject", "box", "event_start_s", "event_end_s", "delay_s"),
)
CLIP_COLUMNS = (
    *("clip", "kind", "group", "conditions", "camera", "duration_s", "rate_hz", "scored", "right"),
    *(
        "events",
        "found",
        "missed",
        "alarms",
        "true",
        "false",
        "unscored_events",
        "problems",
        "notes",
    ),
)


def write_alarms(document: Document) -> str:
    """One row an alarm (outcome ``true`` or ``false``) or missed event (``missed``)."""
    return _table(ALARM_COLUMNS, (row for clip in document["clips"] for row in _alarms(clip)))


def write_clips(document: Document) -> str:
    """One row a clip."""
    return _table(CLIP_COLUMNS, (_clip(clip) for clip in document["clips"]))


def _table(columns: tuple[str, ...], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    text.write("\ufeff")  # without it a Chinese spreadsheet takes UTF-8 for GBK
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows({name: _safe(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _safe(value: object) -> object:
    """A spreadsheet must not take a clip's name for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _common(clip: Document) -> dict[str, object]:
    return {
        "clip": clip["name"],
        "kind": clip["kind"],
        "group": clip["group"],
        "conditions": ";".join(clip["conditions"]),
        "camera": "" if clip["camera"] is None else clip["camera"]["id"],
    }


def _alarms(clip: Document) -> Iterable[dict[str, object]]:
    for alarm in clip["alarms"]:
        row = _common(clip) | {
            key: alarm[key]
            for key in ("scenario", "outcome", "t_s", "since_s", "confidence", "subject")
        }
        row["box"] = _box(alarm)
        if alarm["event"] is not None:
            event = clip["events"][alarm["event"]]
            row |= {"event_start_s": event["start_s"], "event_end_s": event["end_s"]}
            if event["start_s"] > 0:  # on from the first picture: nobody knows since when
                row["delay_s"] = round(max(0.0, alarm["t_s"] - event["start_s"]), 3)
        yield row
    for event in clip["events"]:
        if event["outcome"] == "missed":
            yield _common(clip) | {
                "scenario": event["scenario"],
                "outcome": "missed",
                "box": _box(event),
                "event_start_s": event["start_s"],
                "event_end_s": event["end_s"],
            }


def _box(item: Document) -> str:
    return "" if item["box"] is None else ",".join(f"{edge:.4f}" for edge in item["box"])


def _clip(clip: Document) -> dict[str, object]:
    missed = sum(event["outcome"] == "missed" for event in clip["events"])
    false = sum(alarm["outcome"] == "false" for alarm in clip["alarms"])
    right = missed == false == 0 and not clip["problems"]
    return _common(clip) | {
        "duration_s": clip["duration_s"],
        "rate_hz": clip["rate_hz"],
        "scored": ";".join(clip["scored"]),
        "right": ("y" if right else "n") if clip["scored"] else "",
        "events": len(clip["events"]),
        "found": len(clip["events"]) - missed,
        "missed": missed,
        "alarms": len(clip["alarms"]),
        "true": len(clip["alarms"]) - false,
        "false": false,
        "unscored_events": len(clip["unscored_events"]),
        "problems": " | ".join(clip["problems"]),
        "notes": " | ".join(clip["notes"]),
    }
