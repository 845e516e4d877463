"""The reports: one page that needs nothing else, figures as in the JSON, both languages, CSV, JUnit, comparison."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import Any
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from typer.testing import CliRunner

from benchmarks.charts import accuracy_axis, time_ticks
from benchmarks.compare import compare, load_document, mcnemar_exact
from benchmarks.hints import doubts, why_false, why_missed
from benchmarks.report_csv import write_alarms
from benchmarks.report_html import page, percent
from benchmarks.report_junit import junit
from benchmarks.texts import TEXTS, say
from gridwatch.cli import app
from pipeline.exceptions import ConfigError
from tests.benchmark_clips import SETTINGS, write_river

LABELS = """\
clip,kind,group,event,start_s,end_s,conditions
red.mp4,real,outfall,river_discoloration,8,16,rain
missed.mp4,real,outfall,river_discoloration,5,9,night
=false.mp4,simulated,pond,none,,,
late.mp4,real,pond,river_discoloration,2,40,
"""
VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Checks that tags close, and collects attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.images: list[str] = []
        self.words: dict[str, list[str]] = {"zh-CN": [], "en": []}
        self.ids: list[str] = []
        self._languages: list[str | None] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in values.items()]
        if tag == "img":
            self.images.append(values["src"])
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)
            self._languages.append(values.get("lang") if tag == "span" else None)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._languages.pop()

    def handle_data(self, data: str) -> None:
        for language in reversed(self._languages):
            if language is not None:
                self.words[language].append(data)
                return


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: the second looks for a longer time before it alarms, and is compared with the first."""
    folder = tmp_path_factory.mktemp("clips")
    write_river(folder / "red.mp4", 16.0, 8.0)
    write_river(folder / "missed.mp4", 10.0, None, seed=1)
    write_river(folder / "=false.mp4", 16.0, 8.0, seed=2)
    write_river(folder / "late.mp4", 4.0, None, seed=3)
    (folder / "labels.csv").write_text(LABELS, encoding="utf-8")
    (folder / "cameras.yaml").write_text(SETTINGS, encoding="utf-8")
    slow = folder / "slow.yaml"
    slow.write_text(SETTINGS.replace("raise_after: 3s", "raise_after: 20s"), encoding="utf-8")
    out = tmp_path_factory.mktemp("out")
    common = ["benchmark", str(folder), "--workers", "1", "--work", str(out / "work")]
    compared = ["--baseline", str(out / "first" / "results.json"), "--settings", str(slow)]
    files = ["--csv", str(out / "alarms.csv"), "--junit", str(out / "junit.xml")]
    for name, language, more in (("first", "zh", []), ("second", "en", compared + files)):
        arguments = ["--report", str(out / name), "--lang", language, *more]
        result = CliRunner().invoke(app, common + arguments)
        assert result.exit_code == 0, result.output
        (out / f"{name}.txt").write_text(result.output, encoding="utf-8")
    return out


def read(reports: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((reports / name / "results.json").read_text("utf-8"))
    return document


def test_the_page_needs_nothing_from_elsewhere(reports: Path) -> None:
    for name in ("first", "second"):
        text = (reports / name / "index.html").read_text("utf-8")
        found = Page(text)
        assert found.open == []
        for tag, attribute, value in found.attributes:
            if attribute in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, attribute)
        assert "default-src 'none'" in text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
        assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)
        anchors = [v[1:] for _, a, v in found.attributes if a == "href"]
        assert set(anchors) <= set(found.ids)
        assert len(found.ids) == len(set(found.ids))
        assert str(reports) not in text.replace("clips", "")


def test_every_error_has_its_picture(reports: Path) -> None:
    document = read(reports, "first")
    errors = sum(
        item["outcome"] in ("false", "missed")
        for clip in document["clips"]
        for item in (*clip["alarms"], *clip["events"])
    )
    found = Page((reports / "first" / "index.html").read_text("utf-8"))
    assert errors == len(found.images) == 2
    for image in found.images:
        data = base64.b64decode(image.partition(",")[2])
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[1] == 560
    # The false alarm is shown at its moment: the water is red by then.
    alarmed = base64.b64decode(found.images[-1].partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(alarmed, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    blue, _, red = picture[picture.shape[0] * 3 // 4 :].reshape(-1, 3).mean(axis=0)
    assert red > blue + 50


def test_the_page_says_what_the_json_says_in_both_languages(reports: Path) -> None:
    document = read(reports, "first")
    overall = document["kinds"]["real"]["overall"]
    found = Page((reports / "first" / "index.html").read_text("utf-8"))
    zh, en = ("".join(found.words[language]) for language in ("zh-CN", "en"))
    alarms = overall["true"] + overall["false"]
    accuracy, lower = (f"{overall[key]:.1%}" for key in ("accuracy", "accuracy_lower"))
    assert (
        f"在 {alarms} 条报警中 {overall['true']} 条属实：{accuracy}（单侧 95% 置信下限 {lower}）"
        in zh
    )
    assert f"{overall['true']} of {alarms} alarms were true: {accuracy} (one-sided 95% lower" in en
    assert f"还需 {document['verdict']['further_needed']} 条报警且全部属实" in zh
    assert len(found.words["zh-CN"]) > 100
    whole = (reports / "first" / "index.html").read_text("utf-8")
    assert f"{overall['false_per_hour']:.0f}" in whole
    for entry in (document["config_sha256"], *document["versions"].values()):
        assert entry in whole
    for problem in document["problems"]:
        assert problem.replace("'", "&#39;") in whole
    assert '<html lang="zh-CN"' in whole
    assert '<html lang="en"' in (reports / "second" / "index.html").read_text("utf-8")


def test_what_a_clip_is_called_cannot_break_the_page(reports: Path) -> None:
    document = read(reports, "first")
    for clip in document["clips"]:
        clip["name"] += "<script>alert(1)</script>"
        clip["notes"] = ["</script><b>"]
    text = page(document, {}, "en")
    assert "<script>alert" not in text
    assert Page(text).open == []


def test_texts_are_complete_in_both_languages() -> None:
    for key, (zh, en) in TEXTS.items():
        assert zh, key
        assert en, key
        fields = [{f for _, f, _, _ in Formatter().parse(text) if f} for text in (zh, en)]
        assert fields[0] == fields[1], key
    assert say("basis", clips=1, kind="<b>", hours=2).zh.count("&lt;b&gt;") == 1


def test_the_text_is_in_the_asked_language(reports: Path) -> None:
    first, second = ((reports / f"{name}.txt").read_text("utf-8") for name in ("first", "second"))
    assert first.startswith("达到但未证实：报警准确率 98.8%")
    assert "漏报   river_discoloration" in first
    assert "1 of" not in first
    assert second.startswith("MISSED")
    assert "Compared with the earlier run" in second
    assert "settings red.mp4: scenarios.river_discoloration.raise_after=3.0" in second


def test_a_comparison_names_what_got_better_and_worse(reports: Path) -> None:
    comparison = read(reports, "second")["comparison"]
    real, simulated = (comparison["kinds"][kind] for kind in ("real", "simulated"))
    assert [item["clip"] for item in real["lost"]] == ["red.mp4"]
    assert real["gained"] == []
    assert (real["events"]["lost"], real["events"]["neither"]) == (1, 1)
    assert real["events"]["p_value"] == 1.0
    assert [item["clip"] for item in simulated["gone_false"]] == ["=false.mp4"]
    assert simulated["clips"]["gained"] == 1
    text = (reports / "second" / "index.html").read_text("utf-8")
    assert "以前检出、现在漏报" in text
    # The other way round, better is worse.
    before, now = read(reports, "second"), read(reports, "first")
    turned = compare(before, now).kinds["real"]
    assert [item.clip for item in turned.gained] == ["red.mp4"]


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_that_of_statsmodels(lost: int, gained: int) -> None:
    expected = mcnemar([[5, lost], [gained, 3]], exact=True).pvalue
    assert mcnemar_exact(lost, gained) == pytest.approx(min(1.0, expected))


def test_a_run_equals_itself(reports: Path) -> None:
    document = read(reports, "first")
    same = compare(document, copy.deepcopy(document))
    assert not same.differences
    assert same.only_before == same.only_now == ()
    for kind in same.kinds.values():
        assert kind.events.lost == kind.events.gained == kind.clips.lost == kind.clips.gained == 0
        assert kind.new_false == kind.gone_false == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("[]", "found no `clips`"), ('{"clips": []}', "found schema None")],
)
def test_a_wrong_baseline_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_document(file)


def test_tables_hold_every_alarm_and_miss_and_no_formula(reports: Path) -> None:
    document = read(reports, "first")
    rows = list(csv.DictReader(io.StringIO(write_alarms(document).lstrip("\ufeff"))))
    assert sorted(row["outcome"] for row in rows) == ["false", "missed", "true"]
    assert {row["clip"] for row in rows} == {"red.mp4", "missed.mp4", "'=false.mp4"}
    (true,) = (row for row in rows if row["outcome"] == "true")
    assert float(true["delay_s"]) == pytest.approx(float(true["t_s"]) - 8.0)
    clips = (reports / "first" / "clips.csv").read_text("utf-8-sig")
    by_name = {row["clip"]: row for row in csv.DictReader(io.StringIO(clips))}
    assert by_name["red.mp4"]["right"] == "y"
    assert by_name["missed.mp4"]["right"] == "n"
    assert by_name["late.mp4"]["right"] == ""
    assert (reports / "alarms.csv").read_text("utf-8").count("\n") == 3


def test_junit_is_well_formed_and_counts(reports: Path) -> None:
    root = ET.fromstring((reports / "first" / "junit.xml").read_text("utf-8"))  # noqa: S314 - ours
    cases = {(c.get("classname"), c.get("name")): c for c in root.iter("testcase")}
    assert cases["river_discoloration", "red.mp4"].find("failure") is None
    assert cases["river_discoloration", "missed.mp4"].find("failure") is not None
    assert cases["problems", "late.mp4"].find("error") is not None
    assert cases["verdict", "alarm accuracy"].find("error") is not None  # a clip was not scored
    assert int(root.get("tests", "0")) == len(cases)
    assert int(root.get("failures", "0")) == len(root.findall(".//failure")) == 2
    document = read(reports, "first")
    document["clips"][0]["name"] = "bell\x07.mp4"
    ET.fromstring(junit(document))  # noqa: S314 - ours


def test_hints_tell_the_cause_as_far_as_it_is_known() -> None:
    event = {"scenario": "fire", "start_s": 10.0, "end_s": 20.0, "outcome": "missed"}
    clip: dict[str, Any] = {
        "events": [event],
        "unscored_events": [],
        "suppressed": [],
        "camera": {"scenarios": {"fire": {"raise_after": 3.0}}},
    }

    def false(t_s: float) -> str:
        return why_false(clip, {"scenario": "fire", "t_s": t_s}, 10.0).plain("en")

    assert "second one" in false(15.0)
    assert false(4.0).startswith("6.0 s before")
    assert false(35.0).startswith("15.0 s after")
    assert "no candidate" in why_missed(clip, event).plain("en")
    clip["suppressed"] = [{"scenario": "fire", "since_s": 12.0, "t_s": 14.0, "reason": "too short"}]
    assert "too short" in why_missed(clip, event).plain("en")
    event["end_s"] = 12.0
    assert "no alarm is possible" in why_missed(clip, event).plain("en")
    assert len(doubts(clip)) == 1
    clip["events"] = []
    assert "no event" in false(15.0)
    clip["unscored_events"] = [
        {"scenario": "fire", "start_s": 14.0, "end_s": 16.0, "reason": "does not run"}
    ]
    assert "does not run" in false(15.0)


def test_axes_show_what_must_be_seen() -> None:
    axis = accuracy_axis([0.97], 0.988)
    assert axis.low == 0.9
    assert axis.at(1.0) == 100.0
    assert accuracy_axis([0.06], 0.988).low == 0.0
    assert accuracy_axis([], 0.5).low == 0.5
    assert [tick.text for tick in time_ticks(30)] == ["0", "5", "10", "15", "20", "25", "30"]
    assert time_ticks(0.0) == []
    assert percent(0.9999) == "99.990%"
    assert percent(1.0) == "100.0%"
