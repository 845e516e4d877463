"""Everything that a run leaves in a folder: the page, its figures as JSON, tables, and a result for CI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from benchmarks.evaluation import ClipOutcome
from benchmarks.labels import Kind
from benchmarks.pictures import Moment, shoot
from benchmarks.report_csv import write_alarms, write_clips
from benchmarks.report_html import Shots, page
from benchmarks.report_junit import junit
from benchmarks.texts import Language
from pipeline.exceptions import CaptureError, ConfigError, EvidenceError

__all__ = ["MAX_PICTURES", "REPORT_NAME", "RESULT_NAME", "take_shots", "write_report"]

log = structlog.get_logger(__name__)

Document: TypeAlias = Mapping[str, Any]
REPORT_NAME = "index.html"
RESULT_NAME = "results.json"
# At some 40 KB each the page stays below 20 MB, which every browser opens and a mail carries.
MAX_PICTURES = 400


def write_report(
    folder: Path, document: Document, outcomes: Sequence[ClipOutcome], language: Language
) -> Path:
    """Write ``index.html``, ``results.json``, ``alarms.csv``, ``clips.csv`` and ``junit.xml``.

    Args:
        folder: Made if it is not there; files of these names are replaced, others stay.
        document: The run as `benchmarks.report_json.document` gives it.
        outcomes: Its clips, from which the pictures are taken.
        language: In which the page opens.

    Returns:
        The page.

    Raises:
        ConfigError: if the folder cannot be written to.
    """
    contents = {
        RESULT_NAME: json.dumps(document, ensure_ascii=False, indent=1) + "\n",
        "alarms.csv": write_alarms(document),
        "clips.csv": write_clips(document),
        "junit.xml": junit(document),
        REPORT_NAME: page(document, take_shots(document, outcomes), language),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to: {error.strerror}") from error
    return folder / REPORT_NAME


def take_shots(document: Document, outcomes: Sequence[ClipOutcome]) -> Shots:
    """Pictures of the false alarms and misses, the most telling clips first, `MAX_PICTURES` in all."""
    shots = {}
    left = MAX_PICTURES
    by_name = {outcome.clip.name: outcome for outcome in outcomes}
    order = [kind.value for kind in Kind]
    for clip in sorted(
        (clip for clip in document["clips"] if clip["scored"]),
        key=lambda clip: order.index(clip["kind"]),
    ):
        camera = by_name[clip["name"]].camera
        wanted = _moments(clip)[:left]
        if camera is None or not wanted:
            continue
        try:
            taken = shoot(camera, [moment for _, _, moment in wanted])
        except (CaptureError, EvidenceError) as error:  # the report is worth having without them
            log.warning("no pictures of a clip", clip=clip["name"], reason=str(error))
            continue
        left -= len(taken)
        for number, shot in taken.items():
            what, index, _ = wanted[number]
            shots[clip["name"], what, index] = shot
    return shots


def _moments(clip: Document) -> list[tuple[str, int, Moment]]:
    found = []
    for index, alarm in enumerate(clip["alarms"]):
        if alarm["outcome"] == "false":
            moment = Moment(alarm["t_s"], _box(alarm), None, True, alarm["scenario"])
            found.append(("alarm", index, moment))
    for index, event in enumerate(clip["events"]):
        if event["outcome"] == "missed":
            middle_s = (event["start_s"] + event["end_s"]) / 2
            moment = Moment(middle_s, None, _box(event), False, event["scenario"])
            found.append(("event", index, moment))
    return found


def _box(item: Document) -> tuple[float, float, float, float] | None:
    box = item["box"]
    return None if box is None else (box[0], box[1], box[2], box[3])
