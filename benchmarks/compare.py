"""What changed between two runs over the same clips: event by event, false alarm by false alarm.

Only what both runs judged is compared: clips of the same name, on which the same scenario was scored. The share of true
alarms has no paired test, for alarms have no partners; what is tested is which events were found and which clips are
right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from benchmarks.labels import Kind
from benchmarks.score import LABEL_TOLERANCE_S
from pipeline.exceptions import ConfigError
from pipeline.observation import RelativeBox

__all__ = [
    "Changed",
    "Comparison",
    "Difference",
    "KindComparison",
    "Paired",
    "compare",
    "load_document",
    "mcnemar_exact",
]

Document: TypeAlias = Mapping[str, Any]
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Paired:
    """The same things judged twice.

    Attributes:
        both: Right in both runs.
        lost: Right before, wrong now.
        gained: Wrong before, right now.
        neither: Wrong in both.
        p_value: McNemar's exact test on `lost` against `gained`, two-sided: how likely so uneven a split is by chance.
    """

    both: int
    lost: int
    gained: int
    neither: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Changed:
    """An event or a false alarm whose outcome changed; times in seconds from the clip's first picture.

    Attributes:
        clip: Name.
        scenario: Whose it is.
        start_s: Of the event; since when the condition held for a false alarm.
        end_s: Of the event; the time of a false alarm.
        index: Its place among the events or alarms of the clip, in the run that has it (now, where both have).
    """

    clip: str
    scenario: str
    start_s: float
    end_s: float
    index: int


@dataclass(frozen=True, slots=True)
class KindComparison:
    """What changed on the clips of one kind.

    Attributes:
        clips: Clips right in either run.
        events: Events found in either run.
        scenarios: The same by scenario.
        lost: Events found before and missed now.
        gained: Events missed before and found now.
        new_false: False alarms that were not there before.
        gone_false: False alarms that are there no more; `index` is of the earlier run.
        same_false: Number of false alarms in both.
        accuracy: True alarms and all alarms on the clips that are compared, before and now.
    """

    clips: Paired
    events: Paired
    scenarios: Mapping[str, Paired]
    lost: tuple[Changed, ...]
    gained: tuple[Changed, ...]
    new_false: tuple[Changed, ...]
    gone_false: tuple[Changed, ...]
    same_false: int
    accuracy: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was not the same in both runs.

    Attributes:
        what: ``option``, ``weights``, ``settings``, ``package`` or ``label``.
        name: Of the option, model, clip or package.
        before: Its value then, as text.
        now: Its value now.
    """

    what: str
    name: str
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run beside an earlier one.

    Attributes:
        kinds: By kind of clip; kinds are never added up.
        differences: What was not the same; outcomes may have changed for any of these reasons.
        only_before: Clips that only the earlier run judged.
        only_now: Clips that only this run judged.
    """

    kinds: Mapping[str, KindComparison]
    differences: tuple[Difference, ...]
    only_before: tuple[str, ...]
    only_now: tuple[str, ...]


def load_document(file: Path) -> Document:
    """A run that was written with ``--json`` or ``--report``.

    Raises:
        ConfigError: if it cannot be read or is no such document.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is no JSON: {error}") from error
    if not isinstance(document, dict) or "clips" not in document:
        raise ConfigError(f"{file}: found no `clips`, expected a run's results.json")
    if document.get("schema") != SCHEMA:
        raise ConfigError(f"{file}: found schema {document.get('schema')}, expected {SCHEMA}")
    return document


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact p-value that changes in either direction are equally likely (McNemar, Psychometrika 1947)."""
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def compare(before: Document, now: Document) -> Comparison:
    """Compare two runs.

    Args:
        before: An earlier run, as `load_document` gives it.
        now: This run.
    """
    old = {clip["name"]: clip for clip in before["clips"] if clip["scored"]}
    new = {clip["name"]: clip for clip in now["clips"] if clip["scored"]}
    pairs = [(old[name], new[name]) for name in sorted(old.keys() & new.keys())]
    kinds = {
        kind.value: _kind(chosen)
        for kind in Kind
        if (chosen := [pair for pair in pairs if pair[1]["kind"] == kind.value])
    }
    return Comparison(
        kinds,
        tuple(_differences(before, now, pairs)),
        tuple(sorted(old.keys() - new.keys())),
        tuple(sorted(new.keys() - old.keys())),
    )


class _Counter:
    """Counts outcomes before and now."""

    def __init__(self) -> None:
        self._counts = {(a, b): 0 for a in (True, False) for b in (True, False)}

    def add(self, before: bool, now: bool) -> None:
        self._counts[before, now] += 1

    def paired(self) -> Paired:
        lost, gained = self._counts[True, False], self._counts[False, True]
        return Paired(
            self._counts[True, True],
            lost,
            gained,
            self._counts[False, False],
            mcnemar_exact(lost, gained),
        )


def _kind(pairs: Sequence[tuple[Document, Document]]) -> KindComparison:
    clips, events = _Counter(), _Counter()
    scenarios: dict[str, _Counter] = {}
    changed: dict[str, list[Changed]] = {k: [] for k in ("lost", "gained", "new", "gone")}
    same = 0
    counts = [[0, 0], [0, 0]]  # true and all alarms, before and now
    for old, new in pairs:
        shared = [name for name in new["scored"] if name in old["scored"]]
        if not shared:
            continue
        clips.add(_right(old, shared), _right(new, shared))
        for side, clip in enumerate((old, new)):
            alarms = [alarm for alarm in clip["alarms"] if alarm["scenario"] in shared]
            counts[side][0] += sum(alarm["outcome"] == "true" for alarm in alarms)
            counts[side][1] += len(alarms)
        for scenario in shared:
            by_scenario = scenarios.setdefault(scenario, _Counter())
            for before, (index, event) in _same_events(old, new, scenario):
                was, found = before["outcome"] == "found", event["outcome"] == "found"
                events.add(was, found)
                by_scenario.add(was, found)
                if was != found:
                    changed["lost" if was else "gained"].append(
                        Changed(new["name"], scenario, event["start_s"], event["end_s"], index)
                    )
            gone, fresh, stayed = _false_alarms(old, new, scenario)
            same += stayed
            changed["gone"] += gone
            changed["new"] += fresh
    return KindComparison(
        clips.paired(),
        events.paired(),
        {name: counter.paired() for name, counter in sorted(scenarios.items())},
        tuple(changed["lost"]),
        tuple(changed["gained"]),
        tuple(changed["new"]),
        tuple(changed["gone"]),
        same,
        ((counts[0][0], counts[0][1]), (counts[1][0], counts[1][1])),
    )


def _right(clip: Document, scenarios: Sequence[str]) -> bool:
    """Whether every event was found, no alarm is false and the clip has no problem."""
    return not clip["problems"] and all(
        item["outcome"] in ("found", "true")
        for item in (*clip["events"], *clip["alarms"])
        if item["scenario"] in scenarios
    )


def _events(clip: Document, scenario: str) -> dict[tuple[float, float, int], tuple[int, Document]]:
    """Events by start, end and how many of the same times came before."""
    found: dict[tuple[float, float, int], tuple[int, Document]] = {}
    for index, event in enumerate(clip["events"]):
        if event["scenario"] == scenario:
            times = (event["start_s"], event["end_s"])
            found[(*times, sum(key[:2] == times for key in found))] = (index, event)
    return found


def _same_events(
    old: Document, new: Document, scenario: str
) -> list[tuple[Document, tuple[int, Document]]]:
    before, now = _events(old, scenario), _events(new, scenario)
    return [(before[key][1], now[key]) for key in sorted(before.keys() & now.keys())]


def _false_alarms(
    old: Document, new: Document, scenario: str
) -> tuple[list[Changed], list[Changed], int]:
    """False alarms that are gone, those that are new, and the number of those in both.

    Two are the same if the times for which their conditions held overlap; of several, those whose boxes overlap most.
    """
    gone, fresh = (_false(clip, scenario) for clip in (old, new))
    candidates = sorted(
        (-_iou(a["box"], b["box"]), abs(a["t_s"] - b["t_s"]), i, j)
        for i, a in gone.items()
        for j, b in fresh.items()
        if _overlap(a, b)
    )
    same = 0
    for _, _, i, j in candidates:
        if i in gone and j in fresh:
            del gone[i], fresh[j]
            same += 1
    return (
        [_changed(old, index, alarm) for index, alarm in gone.items()],
        [_changed(new, index, alarm) for index, alarm in fresh.items()],
        same,
    )


def _false(clip: Document, scenario: str) -> dict[int, Document]:
    return {
        index: alarm
        for index, alarm in enumerate(clip["alarms"])
        if alarm["scenario"] == scenario and alarm["outcome"] == "false"
    }


def _changed(clip: Document, index: int, alarm: Document) -> Changed:
    return Changed(clip["name"], alarm["scenario"], alarm["since_s"], alarm["t_s"], index)


def _overlap(a: Document, b: Document) -> bool:
    def end(alarm: Document) -> float:
        return float(max(alarm["t_s"], alarm["cleared_s"] or 0.0)) + LABEL_TOLERANCE_S

    return bool(a["since_s"] <= end(b) and b["since_s"] <= end(a))


def _iou(a: RelativeBox | None, b: RelativeBox | None) -> float:
    if a is None or b is None:
        return 0.0
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, high)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(shared / (areas - shared)) if areas > shared else 0.0


def _differences(
    before: Document, now: Document, pairs: Sequence[tuple[Document, Document]]
) -> list[Difference]:
    found = []
    tables: list[tuple[str, Document, Document]] = [
        ("option", before["options"], now["options"]),
        ("weights", _digests(before), _digests(now)),
        ("package", before["versions"], now["versions"]),
    ]
    for what, then, today in tables:
        # An option that the earlier version did not write had no other value.
        names = then.keys() & today.keys() if what == "option" else {*then, *today}
        found += [
            Difference(what, name, _text(then.get(name)), _text(today.get(name)))
            for name in sorted(names)
            if then.get(name) != today.get(name)
        ]
    for old, new in pairs:
        if old["camera"] != new["camera"]:
            found.append(
                Difference("settings", new["name"], *_unlike(old["camera"], new["camera"]))
            )
        if (was := _labels(old)) != (is_now := _labels(new)):
            found.append(Difference("label", new["name"], was, is_now))
    return found


def _digests(document: Document) -> dict[str, str | None]:
    weights = document["weights"]
    if "error" in weights:
        return {}
    return {name: entry and entry["sha256"] for name, entry in weights.items()}


def _labels(clip: Document) -> str:
    events = (f"{e['scenario']} {e['start_s']:g}-{e['end_s']:g} s" for e in clip["events"])
    return ", ".join(events) or "–"


def _unlike(old: object, new: object, path: str = "") -> tuple[str, str]:
    """The parts of two settings that are unlike, as ``path=value`` lists."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [
            _unlike(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            for key in dict.fromkeys((*old, *new))
            if old.get(key) != new.get(key)
        ]
        return ", ".join(p[0] for p in parts), ", ".join(p[1] for p in parts)
    return f"{path}={_text(old)}", f"{path}={_text(new)}"


def _text(value: object) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)
