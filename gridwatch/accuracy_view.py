"""`gridwatch accuracy`: the running alarm accuracy of a host's tickets, as a table, JSON or CSV, and as a gate."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alerts.accuracy import (
    Accuracy,
    By,
    Fact,
    Miss,
    Response,
    Stage,
    Trend,
    Verdict,
    accuracy,
    accuracy_by,
    responses,
    trend,
)
from alerts.store import Store
from alerts.tickets import instant
from gridwatch.config import Config, load_config
from gridwatch.present import Language
from pipeline.exceptions import ConfigError
from pipeline.units import parse_duration

__all__ = [
    "Form",
    "Gate",
    "Report",
    "document",
    "passes",
    "print_report",
    "report",
    "run_accuracy",
    "since_of",
]

Form = Literal["table", "json", "csv"]
Gate = Literal["proven", "met"]

BAR = 24  # characters
TWO_WEEKS_S = 14 * 86_400.0
PLAIN_WIDTH = 200  # of a table that goes into a file

_STYLES = {
    Verdict.PROVEN: "bold green",
    Verdict.MET: "bold yellow",
    Verdict.MISSED: "bold red",
    Verdict.UNDEFINED: "dim",
}
_WORDS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("告警准确率", "alarm accuracy"),
    "acknowledged": ("确认", "acknowledged"),
    "all": ("合计", "all"),
    "all_time": ("全部记录", "all that is kept"),
    "apart": ("重复/测试", "dupl./test"),
    "at_least": ("95% 下限", "≥ (95 %)"),
    "camera": ("摄像机", "camera"),
    "dispatched": ("派单", "dispatched"),
    "disposed": ("处置", "disposed"),
    "grid": ("网格", "grid"),
    "late_open": ("逾期未办", "late, open"),
    "met": ("达标，未证实", "met, not proven"),
    "missed": ("未达标", "missed"),
    "misses": ("漏报（人工上报）", "reported misses"),
    "n": ("件数", "tickets"),
    "no_grid": ("（无网格）", "(no grid)"),
    "proven": ("已证实", "proven"),
    "response": ("响应", "response"),
    "scenario": ("场景", "scenario"),
    "simulated": ("模拟画面，非真实事件", "simulated pictures, no real events"),
    "since": ("起始", "since"),
    "target": ("目标", "target"),
    "true_of": ("属实/已判定", "true/decided"),
    "undecided": ("未判定", "undecided"),
    "undefined": ("无数据", "undefined"),
    "verdict": ("结论", "verdict"),
    "week": ("周", "week"),
    "within": ("按时率", "in time"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed.

    Attributes:
        by: What the rows tell apart.
        rows: Accuracy by name.
        overall: Of all rows together.
        trend: This week against the last one; None where `since_t` cuts that off.
        since_t: From when on; None for all that is kept.
        now_t: The present; both in seconds since the epoch.
    """

    site: str
    by: By
    rows: Mapping[str, Accuracy]
    overall: Accuracy
    responses: Mapping[Stage, Response]
    trend: Trend | None
    target: float
    since_t: float | None
    now_t: float
    simulated: bool


def since_of(text: str, now_t: float, zone: tzinfo) -> float:
    """Seconds since the epoch of ``30d`` (before now) or ``2026-11-01`` (local midnight; a time may follow).

    Raises:
        ConfigError: if it is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now_t - parse_duration(text)
        except ValueError:
            raise ConfigError(
                f"--since {text}: expected a date such as 2026-11-01 or a duration such as 30d"
            ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def report(
    config: Config,
    facts: Sequence[Fact],
    misses: Sequence[Miss],
    now_t: float,
    *,
    by: By = "scenario",
    level: int | None = None,
    since_t: float | None = None,
    target: float | None = None,
    simulated: bool = False,
) -> Report:
    """Count facts and misses; for the arguments see `alerts.accuracy`."""
    asked = config.accuracy.target if target is None else target
    weeks = trend(facts, now_t, config.timezone, target=asked, simulated=simulated)
    return Report(
        site=config.site.id,
        by=by,
        rows=accuracy_by(
            facts,
            by,
            target=asked,
            level=level,
            timezone=config.timezone,
            misses=misses,
            simulated=simulated,
        ),
        overall=accuracy(facts, target=asked, misses=misses, simulated=simulated),
        responses=responses(facts, now_t, config.accuracy.response, simulated=simulated),
        trend=weeks if since_t is None or since_t <= now_t - TWO_WEEKS_S else None,
        target=asked,
        since_t=since_t,
        now_t=now_t,
        simulated=simulated,
    )


def passes(overall: Accuracy, gate: Gate) -> bool:
    """Whether the verdict on all tickets is at least the gate's."""
    good = {Verdict.PROVEN} if gate == "proven" else {Verdict.PROVEN, Verdict.MET}
    return overall.verdict in good


def run_accuracy(
    file: Path,
    *,
    by: By,
    level: int | None = None,
    since: str | None = None,
    target: float | None = None,
    simulated: bool = False,
    language: str | None = None,
    form: Form = "table",
    gate: Gate | None = None,
    now_t: float | None = None,
) -> int:
    """Print the running accuracy of the store that a cameras.yaml names.

    Returns:
        0, or 1 where the gate is not passed.

    Raises:
        ConfigError: if the file or an option cannot be used.
        StoreError: if the store cannot be read.
    """
    config = load_config(file)
    now_t = time.time() if now_t is None else now_t
    since_t = None if since is None else since_of(since, now_t, config.timezone)
    with Store(config.database_url(), read_only=True) as store:
        facts, misses = store.facts(since_t), store.misses(since_t)
    made = report(
        config,
        facts,
        misses,
        now_t,
        by=by,
        level=level,
        since_t=since_t,
        target=target,
        simulated=simulated,
    )
    if form == "json":
        sys.stdout.write(json.dumps(document(made), ensure_ascii=False, indent=1) + "\n")
    elif form == "csv":
        _write_csv(made)
    else:
        asked: Language = config.site.language
        asked = asked if language is None else "en" if language == "en" else "zh"
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=PLAIN_WIDTH)
        print_report(made, asked, config.timezone, console)
    return 0 if gate is None or passes(made.overall, gate) else 1


def document(made: Report) -> dict[str, Any]:
    """The report as JSON; None is undefined, times are RFC 3339."""
    return {
        "site": made.site,
        "since": None if made.since_t is None else instant(made.since_t).isoformat(),
        "until": instant(made.now_t).isoformat(),
        "simulated": made.simulated,
        "target": made.target,
        "by": made.by,
        "overall": _figures(made.overall),
        "rows": [{"name": name, **_figures(one)} for name, one in made.rows.items()],
        "responses": {
            stage: {name: getattr(one, name) for name in one.__slots__}
            for stage, one in made.responses.items()
        },
        "trend": None
        if made.trend is None
        else {
            "raised": made.trend.raised,
            "raised_before": made.trend.raised_before,
            "now": _figures(made.trend.now),
            "before": _figures(made.trend.before),
            "change": made.trend.change,
            "p_value": made.trend.p_value,
        },
    }


def print_report(made: Report, language: Language, zone: tzinfo, console: Console) -> None:
    """The report as tables for people."""

    def say(word: str) -> str:
        return _WORDS[word][0 if language == "zh" else 1]

    since = (
        say("all_time")
        if made.since_t is None
        else f"{say('since')} {datetime.fromtimestamp(made.since_t, zone):%Y-%m-%d %H:%M}"
    )
    heading = f"{made.site} · {say('accuracy')} · {say('target')} {made.target:.1%} · {since}"
    console.print(heading, style="bold", markup=False)
    if made.simulated:
        console.print(say("simulated"), style="magenta")
    table = Table(box=None, header_style="bold dim", pad_edge=False)
    table.add_column(say(made.by), overflow="fold", min_width=8)
    table.add_column("0 % … 100 %", no_wrap=True, min_width=BAR)
    for word in ("accuracy", "at_least", "true_of", "undecided", "apart", "misses"):
        table.add_column(say(word), justify="right")
    table.add_column(say("verdict"))
    for name, one in (*made.rows.items(), (None, made.overall)):
        text = say("all") if name is None else _plain(name) or say("no_grid")
        table.add_row(
            Text(text, style="bold" if name is None else ""),
            _bar(one),
            say("undefined") if one.value is None else f"{one.value:.2%}",
            "" if one.value is None else f"{one.lower:.2%}",
            f"{one.confirmed}/{one.decided}",
            str(one.undecided or ""),
            f"{one.duplicates}/{one.tests}" if one.duplicates or one.tests else "",
            _missed(one),
            Text(_verdict(one, say(one.verdict)), style=_STYLES[one.verdict]),
        )
    console.print(table)
    times = Table(box=None, header_style="bold dim", pad_edge=False)
    for word in ("response", "n"):
        times.add_column(say(word))
    for heading in ("p50", "p95", say("target"), say("within"), say("late_open")):
        times.add_column(heading, justify="right")
    for stage, took in made.responses.items():
        times.add_row(
            say(stage),
            str(took.n),
            _duration(took.p50_s),
            _duration(took.p95_s),
            _duration(took.target_s),
            "" if took.within is None else f"{took.within:.1%}",
            str(took.late_open or ""),
        )
    console.print()
    console.print(times)
    if made.trend is not None:
        console.print()
        console.print(_trend(made.trend, language), soft_wrap=True)


def _trend(found: Trend, language: Language) -> str:
    def share(one: Accuracy) -> str:
        return "–" if one.value is None else f"{one.value:.2%}"

    chance = found.p_value
    if language == "zh":
        line = (
            f"本周至今 {found.raised} 起告警，准确率 {share(found.now)}；"
            f"上周同期 {found.raised_before} 起，{share(found.before)}"
        )
        if chance is not None:
            line += f"（差异由偶然造成的概率 p = {chance:.2g}）"
        return line
    line = (
        f"This week so far: {found.raised} alarms, {share(found.now)} true; "
        f"the last one until then: {found.raised_before}, {share(found.before)}"
    )
    return line if chance is None else f"{line} (difference by chance alone: p = {chance:.2g})"


def _bar(one: Accuracy) -> Text:
    """Solid up to the lower bound, half up to the figure, light up to the upper bound."""
    if one.value is None:
        return Text("·" * BAR, style="dim")
    marks = [round(share * BAR) for share in (one.lower, one.value, one.upper)]
    bar = Text("█" * marks[0], style=_STYLES[one.verdict])
    bar.append("▓" * (marks[1] - marks[0]), style=_STYLES[one.verdict])
    bar.append("░" * (marks[2] - marks[1]), style="dim")
    return bar.append("·" * (BAR - marks[2]), style="dim")


def _verdict(one: Accuracy, word: str) -> str:
    return word if one.further_needed is None else f"{word} (+{one.further_needed})"


def _missed(one: Accuracy) -> str:
    if not one.missed:
        return ""
    return str(one.missed) if one.recall is None else f"{one.missed} (≤ {one.recall:.1%})"


def _duration(value_s: float | None) -> str:
    if value_s is None:
        return "–"
    if value_s < 120:
        return f"{value_s:.0f} s"
    if value_s < 7200:
        return f"{value_s / 60:.0f} min"
    return f"{value_s / 3600:.1f} h"


def _figures(one: Accuracy) -> dict[str, Any]:
    return {
        "confirmed": one.confirmed,
        "false_alarms": one.false_alarms,
        "decided": one.decided,
        "undecided": one.undecided,
        "duplicates": one.duplicates,
        "tests": one.tests,
        "missed": one.missed,
        "accuracy": one.value,
        "lower": one.lower if one.decided else None,
        "upper": one.upper if one.decided else None,
        "verdict": one.verdict.value,
        "further_needed": one.further_needed,
        "recall": one.recall,
    }


def _write_csv(made: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([made.by, *_figures(made.overall)])
    for name, one in made.rows.items():
        writer.writerow([name, *_figures(one).values()])


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
