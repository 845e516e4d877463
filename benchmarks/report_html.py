"""The result as one page that needs nothing else: verdict, errors with pictures, curves, time lines, configuration."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alerts.intervals import further_true_needed
from benchmarks.charts import Tick, accuracy_axis, curve_chart, time_ticks
from benchmarks.figures import UNMARKED
from benchmarks.hints import doubts, why_false, why_missed
from benchmarks.labels import VEHICLE_STOPPED, Kind
from benchmarks.pictures import Shot
from benchmarks.texts import TEMPLATES, Language, Phrase, say, scenario_title

__all__ = ["Shots", "page"]

Document: TypeAlias = Mapping[str, Any]
Shots: TypeAlias = Mapping[tuple[str, str, int], Shot]
"""Pictures by clip, ``alarm`` or ``event``, and its place among those of the clip."""

PARKING = "illegal_parking"
COLOURS = 5  # in style.css
# Of a time line's lane, from the top: where a pin's head is at confidence 1 and at 0.
PIN_TOP_PX, PIN_BASE_PX = 17.0, 46.0


@dataclass(frozen=True, slots=True)
class Mistake:
    """A false alarm or a miss."""

    what: str
    kind: str
    clip: str
    scenario: str
    when: Phrase
    hint: Phrase
    picture: str | None
    close_up: str | None
    on_right: bool
    badge: Phrase | None

    @property
    def keys(self) -> tuple[str, ...]:
        """What the page's filters go by."""
        return (self.what, self.kind, self.scenario, *(("changed",) if self.badge else ()))


@dataclass(frozen=True, slots=True)
class Filter:
    """A button that shows only some mistakes."""

    key: str
    name: Phrase
    count: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A labelled event; places in percent of the clip's length."""

    left: float
    width: float
    state: str
    title: str


@dataclass(frozen=True, slots=True)
class Span:
    """A time for which a condition was seen, before or without an alarm."""

    left: float
    right: float
    state: str
    title: str


@dataclass(frozen=True, slots=True)
class Pin:
    """An alarm; the higher its confidence, the smaller `y`."""

    at: float
    y: float
    true: bool
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One scenario on one clip."""

    scenario: str
    bars: tuple[Bar, ...]
    spans: tuple[Span, ...]
    pins: tuple[Pin, ...]


@dataclass(frozen=True, slots=True)
class TimeLine:
    """One clip."""

    clip: Document
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    wrong: bool


@dataclass(frozen=True, slots=True)
class SettingsGroup:
    """Clips with the same camera settings."""

    clips: tuple[str, ...]
    text: str


def page(document: Document, shots: Shots, language: Language) -> str:
    """The page as HTML.

    Args:
        document: A run as `benchmarks.report_json.document` gives it, with its ``comparison`` if there is one.
        shots: Pictures of false alarms and misses.
        language: In which it opens; it holds both.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    target = document["options"]["target"]
    mistakes = list(_mistakes(document, shots))
    scenarios = sorted({name for clip in document["clips"] for name in clip["scored"]})
    colours = {name: str(1 + i % COLOURS) for i, name in enumerate(scenarios)}
    scores = [
        one
        for kind in document["kinds"].values()
        for one in (kind["overall"], *kind["scenarios"].values())
    ]
    verdict = document["verdict"]
    return environment.get_template("report.html.j2").render(
        doc=document,
        language="en" if language == "en" else "zh-CN",
        site=document["site"],
        finished=document["run"]["finished"],
        sections=[
            name
            for name in SECTIONS
            if name != "comparison" or document.get("comparison") is not None
        ],
        headline=verdict and verdict["kind"],
        target=percent(target),
        faulty=sum(bool(clip["problems"]) for clip in document["clips"]),
        further=lambda one: further_true_needed(one["true"], one["true"] + one["false"], target),
        axis=accuracy_axis(
            (one["accuracy_lower"] for one in scores if one["accuracy_lower"] is not None), target
        ),
        alarms_of=lambda kind, scenario: [
            alarm
            for clip in document["clips"]
            if clip["kind"] == kind
            for alarm in clip["alarms"]
            if alarm["scenario"] == scenario
        ],
        mistakes=mistakes,
        unpictured=sum(mistake.picture is None for mistake in mistakes),
        mistake_groups=_filters(mistakes),
        curve_chart=curve_chart,
        read_off=lambda curves: next(c for c in curves.values() if c)["miss_rate_at"],
        colour=lambda name: colours.get(name, "overall"),
        lines=[_time_line(clip) for clip in document["clips"]],
        doubts=[
            (clip["name"], event, reason)
            for clip in document["clips"]
            for event, reason in doubts(clip)
        ],
        notes=[(clip["name"], note) for clip in document["clips"] for note in clip["notes"]],
        settings_groups=_settings_groups(document["clips"]),
        unmarked=UNMARKED,
        say=say,
        title=scenario_title,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),  # noqa: S704 - ours
    )


SECTIONS = (
    *("scenarios", "comparison", "errors", "curves", "conditions", "clips"),
    *("problems", "method", "configuration"),
)


def percent(share: float | None) -> str | Phrase:
    """One decimal; more where that would round up to a whole it is not (99.97 % is not 100 %)."""
    if share is None:
        return say("undefined")
    text = f"{share:.1%}"
    return f"{share:.3%}" if text == "100.0%" and share < 1 else text


def _number(form: str) -> Any:  # noqa: ANN401 - a Jinja filter
    return lambda value: say("undefined") if value is None else format(value, form)


def _significant(value: float | None) -> str | Phrase:
    """Three digits, without an exponent."""
    if value is None:
        return say("undefined")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


FILTERS = {
    "pct": percent,
    "one": _number(".1f"),
    "three": _number(".3f"),
    "g": _number("g"),
    "sig": _significant,
    "p": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
    "at": lambda share: f"{100 * share:.2f}",
    "share": lambda counts: percent(counts[0] / counts[1] if counts[1] else None),
}


def _mistakes(document: Document, shots: Shots) -> Iterator[Mistake]:
    window_s = document["options"]["window_s"]
    compared = document.get("comparison")
    changed = {
        (what, item["clip"], item["index"])
        for kind in (compared["kinds"].values() if compared else ())
        for what, items in (("alarm", kind["new_false"]), ("event", kind["lost"]))
        for item in items
    }
    order = [kind.value for kind in Kind]
    clips = [clip for clip in document["clips"] if clip["scored"]]
    for clip in sorted(clips, key=lambda clip: order.index(clip["kind"])):
        for index, alarm in enumerate(clip["alarms"]):
            if alarm["outcome"] == "false":
                when = say("at_s", t=f"{alarm['t_s']:.1f}", confidence=f"{alarm['confidence']:.2f}")
                yield Mistake(
                    "false",
                    clip["kind"],
                    clip["name"],
                    alarm["scenario"],
                    when,
                    why_false(clip, alarm, window_s),
                    *_uris(shots.get((clip["name"], "alarm", index))),
                    _on_right(alarm),
                    say("new_badge") if ("alarm", clip["name"], index) in changed else None,
                )
        for index, event in enumerate(clip["events"]):
            if event["outcome"] == "missed":
                span = say("span_s", start=f"{event['start_s']:g}", end=f"{event['end_s']:g}")
                yield Mistake(
                    "miss",
                    clip["kind"],
                    clip["name"],
                    event["scenario"],
                    span,
                    why_missed(clip, event),
                    *_uris(shots.get((clip["name"], "event", index))),
                    _on_right(event),
                    say("lost_badge") if ("event", clip["name"], index) in changed else None,
                )


def _uris(shot: Shot | None) -> tuple[str | None, str | None]:
    if shot is None:
        return None, None
    return _uri(shot.whole), None if shot.close_up is None else _uri(shot.close_up)


def _on_right(item: Document) -> bool:
    """Whether it lies in the right half, where its close-up would cover it."""
    box = item["box"]
    return box is not None and bool(box[0] + box[2] > 1.0)


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _filters(mistakes: Sequence[Mistake]) -> list[Filter]:
    counts = Counter(key for mistake in mistakes for key in mistake.keys)
    names = {"false": say("false_alarm"), "miss": say("miss"), "changed": say("new_badge")}
    names |= {kind.value: say(f"kind_{kind.value}") for kind in Kind}
    names |= {m.scenario: scenario_title(m.scenario) for m in mistakes}
    # A filter that keeps everything is none.
    return [
        Filter(key, name, counts[key])
        for key, name in names.items()
        if 0 < counts[key] < len(mistakes)
    ]


def _time_line(clip: Document) -> TimeLine:
    duration_s = clip["duration_s"] or 0.0
    items = [*clip["events"], *clip["alarms"]]
    wrong = any(item["outcome"] in ("missed", "false") for item in items)
    if duration_s <= 0:
        return TimeLine(clip, (), (), wrong or bool(clip["problems"]))
    unscored = [_of_scenario(event) for event in clip["unscored_events"]]
    names = dict.fromkeys([*clip["scored"], *(event["scenario"] for event in unscored)])
    lanes = tuple(_lane(clip, name, unscored, duration_s) for name in names)
    return TimeLine(clip, lanes, tuple(time_ticks(duration_s)), wrong or bool(clip["problems"]))


def _of_scenario(event: Document) -> Document:
    """A stopped vehicle in the lane of the scenario that it concerns."""
    return {**event, "scenario": PARKING} if event["scenario"] == VEHICLE_STOPPED else event


def _lane(clip: Document, name: str, unscored: Sequence[Document], duration_s: float) -> Lane:
    def at(seconds: float) -> float:
        return round(100.0 * min(max(seconds, 0.0), duration_s) / duration_s, 3)

    bars, spans, pins = [], [], []
    for event in (*clip["events"], *unscored):
        if event["scenario"] == name:
            left = at(event["start_s"])
            state = {"found": "found", "missed": "lost"}.get(event.get("outcome", ""), "unscored")
            text = say("event_title", start=f"{event['start_s']:g}", end=f"{event['end_s']:g}")
            reason = event.get("reason", "")
            title = f"{text.both}: {reason}" if reason else text.both
            bars.append(Bar(left, round(at(event["end_s"]) - left, 3), state, title))
    for one in clip["suppressed"]:
        if one["scenario"] == name:
            text = say(
                "suppressed_title",
                start=f"{one['since_s']:.1f}",
                end=f"{one['t_s']:.1f}",
                reason=one["reason"],
            )
            spans.append(Span(at(one["since_s"]), at(one["t_s"]), "given-up", text.both))
    for alarm in clip["alarms"]:
        if alarm["scenario"] == name:
            text = say(
                "alarm_title", t=f"{alarm['t_s']:.1f}", confidence=f"{alarm['confidence']:.2f}"
            )
            y = PIN_BASE_PX - alarm["confidence"] * (PIN_BASE_PX - PIN_TOP_PX)
            title = f"{text.both} ({alarm['subject']})"
            pins.append(Pin(at(alarm["t_s"]), round(y, 1), alarm["outcome"] == "true", title))
            spans.append(Span(at(alarm["since_s"]), at(alarm["t_s"]), "dwell", text.both))
    return Lane(name, tuple(bars), tuple(spans), tuple(pins))


def _settings_groups(clips: Sequence[Document]) -> list[SettingsGroup]:
    groups: dict[str, list[str]] = {}
    for clip in clips:
        if clip["camera"] is not None:
            settings = {key: value for key, value in clip["camera"].items() if key != "id"}
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(clip["name"])
    return [
        SettingsGroup(
            tuple(names),
            yaml.safe_dump(
                json.loads(text), allow_unicode=True, sort_keys=False, default_flow_style=None
            ),
        )
        for text, names in groups.items()
    ]
