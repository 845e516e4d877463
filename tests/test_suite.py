"""The rendered hard cases through the engine and the registered weights: what was right stays right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.evaluation import ClipOutcome, Evaluation, Options, evaluate
from benchmarks.labels import Kind

SUITE = Path(__file__).parent.parent / "benchmarks" / "suite"
CASES = sorted(path.stem for path in SUITE.glob("*.mp4"))
# Cases that are known to go wrong, with the reason; whoever mends one takes its line out.
KNOWN: dict[str, str] = yaml.safe_load((SUITE / "known_failures.yml").read_text()) or {}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate([SUITE], None, Options(0.988, 10.0, None, 2))


def faults(outcome: ClipOutcome) -> list[str]:
    assert outcome.run is not None, outcome.problems
    found = ["false alarm"] * sum(event is None for event in outcome.alarm_events)
    seen = {event for event in outcome.alarm_events if event is not None}
    return found + [f"missed {e.scenario}" for k, e in enumerate(outcome.events) if k not in seen]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_a_hard_case_is_judged_as_before(name: str, evaluation: Evaluation) -> None:
    (outcome,) = (clip for clip in evaluation.clips if clip.clip.path.stem == name)
    wrong = faults(outcome)
    if name in KNOWN:
        assert wrong, f"{name} is right now: take it out of known_failures.yml"
    else:
        assert wrong == []


def test_the_suite_is_simulated_and_reported_as_such(evaluation: Evaluation) -> None:
    assert set(evaluation.kinds) == {Kind.SIMULATED}
    assert len(evaluation.clips) == len(CASES) >= 30
    assert KNOWN.keys() <= set(CASES)
    assert not [problem for clip in evaluation.clips for problem in clip.problems]
