"""The result as text: the verdict first, then every scenario, then every clip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.evaluation import ClipOutcome, Evaluation
from benchmarks.figures import KindScores
from benchmarks.labels import Kind
from benchmarks.score import Score, VerdictValue

__all__ = ["print_report"]

UNDEFINED = "undefined"
_STYLES = {
    VerdictValue.PROVEN: "bold green",
    VerdictValue.MET: "bold yellow",
    VerdictValue.MISSED: "bold red",
}
_SHOWN_NAMES = 6  # clips named after a problem that many share


def print_report(evaluation: Evaluation, wall_s: float, console: Console) -> None:
    """Print everything about a run.

    Args:
        evaluation: Its result.
        wall_s: How long it took.
        console: Where.
    """
    _print_verdict(evaluation, console)
    _print_problems(evaluation, console)
    for kind, scores in evaluation.kinds.items():
        _print_kind(kind, scores, evaluation, console)
    _print_clips(evaluation, console)
    speed = evaluation.video_s / wall_s if wall_s > 0 else 0.0
    console.print(
        f"\n{evaluation.video_s / 60:.1f} min of video in {wall_s / 60:.1f} min "
        f"({speed:.1f} × real time, {evaluation.options.workers} processes)"
        + (f"; {evaluation.kept} clips as an earlier run left them" if evaluation.kept else ""),
        style="dim",
    )


def _print_verdict(evaluation: Evaluation, console: Console) -> None:
    target = f"{evaluation.options.target:.1%}"
    if evaluation.headline is None:
        console.print(f"NOT MEASURED: no clip could be scored against {target}", style="bold red")
        return
    kind, scores = evaluation.headline
    overall = scores.overall
    value = overall.verdict.value
    words = {
        VerdictValue.PROVEN: f"PROVEN: alarm accuracy is at least {target}",
        VerdictValue.MET: f"MET, NOT PROVEN: alarm accuracy of {target}",
        VerdictValue.MISSED: f"MISSED: alarm accuracy of {target}",
    }
    console.print(f"{words[value]} ({kind.value} clips, all scenarios)", style=_STYLES[value])
    total = overall.true + overall.false
    if overall.accuracy is None:
        console.print("  No alarm was raised: the accuracy is undefined, which counts as missed")
    else:
        console.print(
            f"  {overall.true} of {total} alarms are true: {overall.accuracy:.1%}; with 95 % confidence at least "
            f"{_percent(overall.accuracy_lower)} "
            f"(by resampling groups of clips {_percent(overall.accuracy_bootstrap_lower)})",
            soft_wrap=True,
        )
    if overall.verdict.further_needed is not None:
        console.print(
            f"  {overall.verdict.further_needed} further alarms, all true, would prove it"
        )
    console.print(
        f"  {overall.events - overall.missed} of {overall.events} events found; {_rate(overall)} false alarms per "
        f"camera-hour in {overall.camera_hours:.2f} h of {scores.clips} clips",
        soft_wrap=True,
    )
    if not evaluation.complete:
        faulty = sum(bool(outcome.problems) for outcome in evaluation.clips)
        console.print(
            f"  INCOMPLETE: {faulty} of {len(evaluation.clips)} clips could not be scored in full; no gate passes",
            style="bold red",
        )


def _print_problems(evaluation: Evaluation, console: Console) -> None:
    """Every problem once; one that many clips share (a missing model) with their names."""
    shared: dict[str, list[str]] = defaultdict(list)
    for outcome in evaluation.clips:
        for problem in outcome.problems:
            shared[problem.removeprefix(f"{outcome.clip.path}: ")].append(outcome.clip.name)
    if not shared:
        return
    console.print("\nProblems", style="bold")
    for problem, names in sorted(shared.items()):
        rest = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        where = f"{', '.join(names[:_SHOWN_NAMES])}{rest}"
        text = problem if where in problem else f"{where}: {problem}"
        console.print(f"  ✗ {text}", style="red", markup=False, soft_wrap=True)


def _print_kind(kind: Kind, scores: KindScores, evaluation: Evaluation, console: Console) -> None:
    options = evaluation.options
    console.print(f"\n{kind.value.capitalize()} clips ({scores.clips})", style="bold")
    rows: Mapping[str, Score] = {**scores.scenarios, "all": scores.overall}
    precision = _table(["scenario", "verdict", "true/alarms", "accuracy", "≥ (95 %)", "groups ≥"])
    coverage = _table(["", "found/events", "F1", "false/h (95 %)", "hours", "delay p50/p95"])
    for name, one in rows.items():
        precision.add_row(name, *_precision(one))
        coverage.add_row(name, *_coverage(one))
    console.print(precision)
    console.print(coverage)
    if options.rate_per_hour is not None:
        projected = "; ".join(f"{name} {_projection(one)}" for name, one in rows.items())
        console.print(
            f"accuracy at {options.rate_per_hour:g} events per camera-hour: {projected}",
            soft_wrap=True,
        )


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold dim", pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    return table


def _precision(one: Score) -> Iterator[Text | str]:
    verdict = one.verdict
    more = f" (+{verdict.further_needed})" if verdict.further_needed is not None else ""
    yield Text(f"{verdict.value.value}{more}", style=_STYLES[verdict.value])
    yield f"{one.true}/{one.true + one.false}"
    yield _percent(one.accuracy)
    yield _percent(one.accuracy_lower)
    yield _percent(one.accuracy_bootstrap_lower)


def _coverage(one: Score) -> Iterator[str]:
    found = f"{one.events - one.missed}/{one.events}"
    yield f"{found} {UNDEFINED if one.recall is None else f'= {one.recall:.1%}'}"
    yield UNDEFINED if one.f1 is None else f"{one.f1:.3f}"
    yield _rate(one)
    yield f"{one.camera_hours:.3f}"
    if one.delay_p50_s is None or one.delay_p95_s is None:
        yield UNDEFINED
    else:
        yield f"{one.delay_p50_s:.1f}/{one.delay_p95_s:.1f} s of {one.delays}"


def _projection(one: Score) -> str:
    if one.projected_accuracy is None:
        return UNDEFINED
    return f"{_percent(one.projected_accuracy)} (≥ {_percent(one.projected_accuracy_low)})"


def _print_clips(evaluation: Evaluation, console: Console) -> None:
    console.print("\nClip by clip", style="bold")
    for outcome in evaluation.clips:
        label, measured = outcome.clip.label, outcome.measured
        head = outcome.clip.name
        if label is not None:
            head += f"  {label.kind.value}"
        if measured is not None:
            head += f"  {measured.duration_s:.1f} s"
        if outcome.scored:
            head += f"  {', '.join(outcome.scored)}"
        console.print(head, style="bold" if outcome.missed or _false(outcome) else "", markup=False)
        for line, style in _clip_lines(outcome):
            console.print(f"    {line}", style=style, markup=False, soft_wrap=True)


def _false(outcome: ClipOutcome) -> bool:
    return any(event is None for _, event in outcome.alarms)


def _clip_lines(outcome: ClipOutcome) -> Iterator[tuple[str, str]]:
    for alarm, index in outcome.alarms:
        what = f"alarm at {alarm.t_s:.1f} s, confidence {alarm.confidence:.2f}, {alarm.subject}"
        if index is None:
            yield f"FALSE  {alarm.scenario}: {what}", "red"
        else:
            event = outcome.events[index]
            span = f"event {event.start_s:g}-{event.end_s:g} s"
            yield f"TRUE   {alarm.scenario}: {span}, {what}", "green"
    for event in outcome.missed:
        yield (
            f"MISS   {event.scenario}: event {event.start_s:g}-{event.end_s:g} s{_why(outcome, event.scenario)}",
            "yellow",
        )
    for event, reason in outcome.unscored:
        yield f"not scored: {event.scenario} {event.start_s:g}-{event.end_s:g} s: {reason}", "dim"
    for problem in outcome.problems:
        yield f"PROBLEM: {problem}", "red"
    for note in outcome.notes:
        yield f"note: {note}", "dim"


def _why(outcome: ClipOutcome, scenario: str) -> str:
    """What the rules say of a miss: the last candidate that came to nothing."""
    candidates = outcome.run.suppressed if outcome.run is not None else ()
    reasons = [c for c in candidates if c.scenario == scenario]
    if not reasons:
        return ", nothing was given up: not seen, or still pending at the end"
    last = reasons[-1]
    return f", candidate at {last.since_s:.1f}-{last.t_s:.1f} s given up: {last.reason}"


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1%}"


def _rate(one: Score) -> str:
    interval = one.false_per_hour_interval
    if one.false_per_hour is None or interval is None:
        return UNDEFINED
    return f"{one.false_per_hour:.3g} ({interval[0]:.2g}-{interval[1]:.3g})"
