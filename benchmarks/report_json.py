"""The whole result as one JSON document, the same for the same clips, settings and weights but for `run`."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alerts.intervals import CONFIDENCE
from benchmarks.evaluation import ClipOutcome, Evaluation
from benchmarks.labels import Event
from benchmarks.runner import START_T
from benchmarks.score import LABEL_TOLERANCE_S, RECALL_BIAS
from benchmarks.work import PACKAGES, camera_to_json
from gridwatch.host import models_needed
from pipeline.analyse.weights import load_registry
from pipeline.exceptions import ModelError

__all__ = ["document"]

SCHEMA = 1


def document(evaluation: Evaluation, wall_s: float) -> dict[str, Any]:
    """Everything that is known of a run.

    Args:
        evaluation: Its result.
        wall_s: How long it took.
    """
    options = evaluation.options
    headline = evaluation.headline
    clips = [_clip(outcome) for outcome in evaluation.clips]
    site = evaluation.cameras.config
    config = {
        "timezone": site.site.timezone,
        "providers": list(site.runtime.providers),
        "clips": {clip["name"]: clip["camera"] for clip in clips},
    }
    return {
        "schema": SCHEMA,
        "site": site.site.name or site.site.id,
        "verdict": None
        if headline is None
        else {
            "kind": headline[0].value,
            **asdict(headline[1].overall.verdict),
            "complete": evaluation.complete,
        },
        "options": {
            "target": options.target,
            "window_s": options.window_s,
            "rate_per_hour": options.rate_per_hour,
            "label_tolerance_s": LABEL_TOLERANCE_S,
            "recall_bias": RECALL_BIAS,
            "confidence": CONFIDENCE,
            "start_t": START_T,
        },
        "kinds": {kind.value: asdict(scores) for kind, scores in evaluation.kinds.items()},
        "clips": clips,
        "problems": [problem for outcome in evaluation.clips for problem in outcome.problems],
        "weights": _weights(evaluation),
        "config_sha256": _hash(config),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "machine": platform.machine(),
        "run": {
            "wall_s": round(wall_s, 1),
            "video_s": round(evaluation.video_s, 1),
            "times_real_time": round(evaluation.video_s / wall_s, 2) if wall_s > 0 else None,
            "workers": options.workers,
            "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        },
    }


def _clip(outcome: ClipOutcome) -> dict[str, Any]:
    label, run, measured = outcome.clip.label, outcome.run, outcome.measured
    return {
        "name": outcome.clip.name,
        "kind": None if label is None else label.kind.value,
        "group": None if label is None else label.group,
        "conditions": [] if label is None else list(label.conditions),
        "duration_s": None if measured is None else measured.duration_s,
        "rate_hz": None if measured is None else measured.rate_hz,
        "frames_analysed": None if run is None else run.frames,
        "camera": None
        if outcome.camera is None
        else {"id": outcome.camera.id, **camera_to_json(outcome.camera)},
        "scored": list(outcome.scored),
        "events": [
            _event(event) | {"outcome": "found" if i in outcome.alarm_events else "missed"}
            for i, event in enumerate(outcome.events)
        ],
        "unscored_events": [_event(event) | {"reason": why} for event, why in outcome.unscored],
        "alarms": [
            asdict(alarm) | {"outcome": "false" if event is None else "true", "event": event}
            for alarm, event in outcome.alarms
        ],
        "suppressed": [] if run is None else [asdict(candidate) for candidate in run.suppressed],
        "problems": list(outcome.problems),
        "notes": list(outcome.notes),
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "scenario": event.scenario,
        "start_s": event.start_s,
        "end_s": event.end_s,
        "box": event.box,
    }


def _weights(evaluation: Evaluation) -> dict[str, Any]:
    """Registry entries of the models that the clips need; a model that is not registered is None."""
    cameras = [outcome.camera for outcome in evaluation.clips if outcome.camera is not None]
    runtime = evaluation.cameras.config.runtime
    try:
        registry = load_registry(Path(runtime.registry) if runtime.registry else None)
    except ModelError as error:
        return {"error": str(error)}
    weights: dict[str, Any] = {}
    for name in sorted(models_needed(cameras)):
        entry = registry.get(name)
        weights[name] = (
            None
            if entry is None
            else {
                "file": entry.file,
                "sha256": entry.sha256,
                "stage": entry.stage,
                "thresholds": entry.operating_points,
                "providers": list(runtime.providers),
            }
        )
    return weights


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
