"""The result as text in zh-CN or English: the verdict first, then every scenario, then every clip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.compare import Changed, Comparison, Paired
from benchmarks.evaluation import ClipOutcome, Evaluation
from benchmarks.figures import KindScores
from benchmarks.labels import Kind
from benchmarks.score import Score, VerdictValue
from benchmarks.texts import Language, say
from benchmarks.work import default_folder

__all__ = ["print_comparison", "print_report"]

_STYLES = {
    VerdictValue.PROVEN: "bold green",
    VerdictValue.MET: "bold yellow",
    VerdictValue.MISSED: "bold red",
}
_SHOWN_NAMES = 6  # clips named after a problem that many share


def print_report(
    evaluation: Evaluation, wall_s: float, console: Console, language: Language = "en"
) -> None:
    """Print everything about a run.

    Args:
        evaluation: Its result.
        wall_s: How long it took.
        console: Where.
        language: In which; what the engine itself says (reasons, problems) is English.
    """
    _Writer(console, language).report(evaluation, wall_s)


def print_comparison(comparison: Comparison, console: Console, language: Language = "en") -> None:
    """Print what changed since an earlier run."""
    _Writer(console, language).comparison(comparison)


@dataclass(frozen=True, slots=True)
class _Writer:
    console: Console
    language: Language

    def _say(self, key: str, **values: object) -> str:
        return say(key, **values).unescaped(self.language)

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def report(self, evaluation: Evaluation, wall_s: float) -> None:
        self._verdict(evaluation)
        self._problems(evaluation)
        for kind, scores in evaluation.kinds.items():
            self._kind(kind, scores, evaluation)
        if evaluation.kinds:
            self._line(self._say("t_legend"), "dim")
        self._clips(evaluation)
        run = self._say(
            "t_run",
            minutes=f"{evaluation.video_s / 60:.1f}",
            wall=f"{wall_s / 60:.1f}",
            speed=f"{evaluation.video_s / wall_s if wall_s > 0 else 0.0:.1f}",
            workers=evaluation.options.workers,
        )
        self._line(f"\n{run}", "dim")
        if evaluation.kept:
            self._line(self._say("t_kept", kept=evaluation.kept), "dim")
        if (work := evaluation.options.work) is not None:
            where = "" if work == default_folder() else f" {work}"
            command = f"gridwatch benchmark replay{where} --help"
            self._line(self._say("t_replay", command=command), "dim")

    def _verdict(self, evaluation: Evaluation) -> None:
        target = f"{evaluation.options.target:.1%}"
        if evaluation.headline is None:
            self._line(self._say("t_not_measured", target=target), "bold red")
            return
        kind, scores = evaluation.headline
        overall = scores.overall
        value = overall.verdict.value
        named = say(f"kind_lower_{kind.value}")
        self._line(self._say(f"t_{value.value}", target=target, kind=named), _STYLES[value])
        if overall.accuracy is None:
            self._line(f"  {self._say('t_no_alarm')}")
        else:
            accuracy = self._say(
                "t_accuracy",
                true=overall.true,
                total=overall.true + overall.false,
                accuracy=f"{overall.accuracy:.1%}",
                lower=self._percent(overall.accuracy_lower),
                groups=self._percent(overall.accuracy_bootstrap_lower),
            )
            self._line(f"  {accuracy}")
        if overall.verdict.further_needed is not None:
            self._line(f"  {self._say('t_further', n=overall.verdict.further_needed)}")
        found = self._say(
            "t_found",
            found=overall.events - overall.missed,
            events=overall.events,
            rate=self._rate(overall),
            hours=f"{overall.camera_hours:.2f}",
            clips=scores.clips,
        )
        self._line(f"  {found}")
        if not evaluation.complete:
            faulty = sum(bool(outcome.problems) for outcome in evaluation.clips)
            text = self._say("t_incomplete", faulty=faulty, total=len(evaluation.clips))
            self._line(f"  {text}", "bold red")

    def _problems(self, evaluation: Evaluation) -> None:
        """Every problem once; one that many clips share (a missing model) with their names."""
        shared: dict[str, list[str]] = defaultdict(list)
        for outcome in evaluation.clips:
            for problem in outcome.problems:
                shared[problem.removeprefix(f"{outcome.clip.path}: ")].append(outcome.clip.name)
        if not shared:
            return
        self._line(f"\n{self._say('t_problems')}", "bold")
        for problem, names in sorted(shared.items()):
            more = len(names) - _SHOWN_NAMES
            rest = f" {self._say('t_more', n=more)}" if more > 0 else ""
            where = f"{', '.join(names[:_SHOWN_NAMES])}{rest}"
            self._line(f"  ✗ {problem if where in problem else f'{where}: {problem}'}", "red")

    def _kind(self, kind: Kind, scores: KindScores, evaluation: Evaluation) -> None:
        heading = self._say("t_kind", kind=say(f"kind_{kind.value}"), n=scores.clips)
        self._line(f"\n{heading}", "bold")
        rows: Mapping[str, Score] = {**scores.scenarios, self._say("t_all"): scores.overall}
        precision = self._table("scenario", "verdict", "true", "accuracy", "lower", "groups")
        coverage = self._table(
            *("scenario", "found", "f1", "weighted", "rate", "hours", "delay", "clips")
        )
        for name, one in rows.items():
            precision.add_row(name, *self._precision(one))
            coverage.add_row(name, *self._coverage(one))
        self.console.print(precision)
        self.console.print(coverage)
        rate = evaluation.options.rate_per_hour
        if rate is not None:
            projected = "; ".join(f"{name} {self._projection(one)}" for name, one in rows.items())
            self._line(self._say("t_projection", rate=f"{rate:g}", values=projected))

    def _table(self, *headings: str) -> Table:
        table = Table(box=None, header_style="bold dim", pad_edge=False)
        for index, heading in enumerate(headings):
            table.add_column(self._say(f"h_{heading}"), no_wrap=index == 0, overflow="fold")
        return table

    def _precision(self, one: Score) -> Iterator[Text | str]:
        verdict = one.verdict
        more = f" (+{verdict.further_needed})" if verdict.further_needed is not None else ""
        yield Text(f"{self._say(f'v_{verdict.value.value}')}{more}", style=_STYLES[verdict.value])
        yield f"{one.true}/{one.true + one.false}"
        yield self._percent(one.accuracy)
        yield self._percent(one.accuracy_lower)
        yield self._percent(one.accuracy_bootstrap_lower)

    def _coverage(self, one: Score) -> Iterator[str]:
        found = f"{one.events - one.missed}/{one.events}"
        yield f"{found} {self._undefined if one.recall is None else f'= {one.recall:.1%}'}"
        yield self._undefined if one.f1 is None else f"{one.f1:.3f}"
        yield self._undefined if one.weighted_f1 is None else f"{one.weighted_f1:.3f}"
        yield self._rate(one)
        yield f"{one.camera_hours:.3f}"
        if one.delay_p50_s is None or one.delay_p95_s is None:
            yield self._undefined
        else:
            yield f"{one.delay_p50_s:.1f}/{one.delay_p95_s:.1f} s ({one.delays})"
        yield f"{one.clips_right}/{one.clips}"

    def _projection(self, one: Score) -> str:
        if one.projected_accuracy is None:
            return self._undefined
        low = self._percent(one.projected_accuracy_low)
        return f"{self._percent(one.projected_accuracy)} (≥ {low})"

    def _clips(self, evaluation: Evaluation) -> None:
        self._line(f"\n{self._say('t_clips')}", "bold")
        for outcome in evaluation.clips:
            label, measured = outcome.clip.label, outcome.measured
            head = outcome.clip.name
            if label is not None:
                head += f"  {label.kind.value}"
            if measured is not None:
                head += f"  {measured.duration_s:.1f} s"
            if outcome.scored:
                head += f"  {', '.join(outcome.scored)}"
            wrong = outcome.missed or any(event is None for _, event in outcome.alarms)
            self._line(head, "bold" if wrong else "")
            for line, style in self._clip_lines(outcome):
                self._line(f"    {line}", style)

    def _clip_lines(self, outcome: ClipOutcome) -> Iterator[tuple[str, str]]:
        for alarm, index in outcome.alarms:
            what = self._say(
                "t_alarm",
                t=f"{alarm.t_s:.1f}",
                confidence=f"{alarm.confidence:.2f}",
                subject=alarm.subject,
            )
            if index is None:
                yield f"{self._say('t_false')} {alarm.scenario}: {what}", "red"
            else:
                span = self._event(outcome.events[index].start_s, outcome.events[index].end_s)
                yield f"{self._say('t_true')} {alarm.scenario}: {span}, {what}", "green"
        for event in outcome.missed:
            span = self._event(event.start_s, event.end_s)
            why = self._why(outcome, event.scenario)
            yield f"{self._say('t_miss')} {event.scenario}: {span}, {why}", "yellow"
        for event, reason in outcome.unscored:
            text = self._say(
                "t_unscored",
                scenario=event.scenario,
                start=f"{event.start_s:g}",
                end=f"{event.end_s:g}",
                reason=reason,
            )
            yield text, "dim"
        for problem in outcome.problems:
            yield self._say("t_problem", text=problem), "red"
        for note in outcome.notes:
            yield self._say("t_note", text=note), "dim"

    def _why(self, outcome: ClipOutcome, scenario: str) -> str:
        """What the rules say of a miss: the last candidate that came to nothing."""
        candidates = outcome.run.suppressed if outcome.run is not None else ()
        given_up = [c for c in candidates if c.scenario == scenario]
        if not given_up:
            return self._say("t_unseen")
        last = given_up[-1]
        return self._say(
            "t_given_up", start=f"{last.since_s:.1f}", end=f"{last.t_s:.1f}", reason=last.reason
        )

    def _event(self, start_s: float, end_s: float) -> str:
        return self._say("t_event", start=f"{start_s:g}", end=f"{end_s:g}")

    @property
    def _undefined(self) -> str:
        return self._say("undefined")

    def _percent(self, value: float | None) -> str:
        return self._undefined if value is None else f"{value:.1%}"

    def _rate(self, one: Score) -> str:
        interval = one.false_per_hour_interval
        if one.false_per_hour is None or interval is None:
            return self._undefined
        return f"{one.false_per_hour:.3g} ({interval[0]:.2g}-{interval[1]:.3g})"

    def comparison(self, comparison: Comparison) -> None:
        self._line(f"\n{self._say('t_comparison')}", "bold")
        for name, one in comparison.kinds.items():
            (true_before, all_before), (true_now, all_now) = one.accuracy
            change = self._say(
                "accuracy_change",
                before=self._percent(true_before / all_before if all_before else None),
                now=self._percent(true_now / all_now if all_now else None),
                true_before=true_before,
                all_before=all_before,
                true_now=true_now,
                all_now=all_now,
            )
            self._line(f"{self._say(f'kind_{name}')}: {change}")
            self._line(f"  {self._paired('event_changes', one.events)}")
            self._line(f"  {self._paired('clip_changes', one.clips)}")
            false = self._say(
                "t_same_false",
                new=len(one.new_false),
                gone=len(one.gone_false),
                same=one.same_false,
            )
            self._line(f"  {false}")
            self._changed("lost_events", one.lost, "red")
            self._changed("gained_events", one.gained, "green")
            self._changed("new_false", one.new_false, "red")
            self._changed("gone_false", one.gone_false, "green")
        for difference in comparison.differences:
            what = self._say(f"diff_{difference.what}")
            line = f"  {what} {difference.name}: {difference.before} → {difference.now}"
            self._line(line, "dim")
        for key in ("only_before", "only_now"):
            if names := getattr(comparison, key):
                self._line(f"  {self._say(key, clips=', '.join(names))}", "dim")

    def _paired(self, what: str, paired: Paired) -> str:
        return self._say(
            "paired_sentence",
            what=say(what),
            gained=paired.gained,
            lost=paired.lost,
            both=paired.both,
            neither=paired.neither,
            p=f"{paired.p_value:.3f}",
        )

    def _changed(self, heading: str, items: Sequence[Changed], style: str) -> None:
        for item in items:
            span = f"{item.start_s:.1f}-{item.end_s:.1f} s"
            self._line(f"    {self._say(heading)}: {item.clip} {item.scenario} {span}", style)
