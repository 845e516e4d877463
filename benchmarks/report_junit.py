"""The result as JUnit XML, which every CI server shows: the verdict, and one case a clip and scenario."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias
from xml.etree import ElementTree as ET

from benchmarks.score import VerdictValue

__all__ = ["junit"]

Document: TypeAlias = Mapping[str, Any]
# XML 1.0 has no place for these, and a file's name may hold them.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(document: Document) -> str:
    """The document: a suite ``verdict`` and one for every scenario.

    A miss or a false alarm fails its case; what could not be scored is an error. The verdict fails where the target is
    missed or something could not be scored.
    """
    suites = ET.Element("testsuites", name="gridwatch benchmark")
    _suite(suites, "verdict", [_verdict(document)])
    names = sorted({name for clip in document["clips"] for name in clip["scored"]})
    for name in names:
        clips = [clip for clip in document["clips"] if name in clip["scored"]]
        _suite(suites, name, [_case(clip, name) for clip in clips])
    faulty = [clip for clip in document["clips"] if clip["problems"]]
    if faulty:
        _suite(suites, "problems", [_problem(clip) for clip in faulty])
    for total in ("tests", "failures", "errors"):
        suites.set(total, str(sum(int(suite.get(total, "0")) for suite in suites)))
    ET.indent(suites, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, "unicode") + "\n"


def _suite(parent: ET.Element, name: str, cases: Iterable[ET.Element]) -> None:
    suite = ET.SubElement(parent, "testsuite", name=_clean(name))
    suite.extend(cases)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in suite)))
    suite.set("errors", str(sum(case.find("error") is not None for case in suite)))


def _verdict(document: Document) -> ET.Element:
    case = ET.Element("testcase", classname="verdict", name="alarm accuracy")
    verdict, target = document["verdict"], document["options"]["target"]
    if verdict is None:
        _blame(case, "error", "no clip could be scored", "")
        return case
    overall = document["kinds"][verdict["kind"]]["overall"]
    alarms = overall["true"] + overall["false"]
    facts = f"{overall['true']} of {alarms} alarms on {verdict['kind']} clips are true"
    if overall["accuracy"] is not None:
        facts += f": {overall['accuracy']:.1%}, lower bound {overall['accuracy_lower']:.1%}"
    if not verdict["complete"]:
        _blame(case, "error", "not every clip could be scored", facts)
    elif verdict["value"] == VerdictValue.MISSED:
        _blame(case, "failure", f"missed: alarm accuracy of {target:.1%}", facts)
    else:
        ET.SubElement(case, "system-out").text = f"{verdict['value']}: {facts}"
    return case


def _case(clip: Document, scenario: str) -> ET.Element:
    case = ET.Element("testcase", classname=_clean(scenario), name=_clean(clip["name"]))
    faults = [
        f"miss: event {event['start_s']:g}-{event['end_s']:g} s"
        for event in clip["events"]
        if event["scenario"] == scenario and event["outcome"] == "missed"
    ] + [
        f"false alarm at {alarm['t_s']:.1f} s, confidence {alarm['confidence']:.2f}, {alarm['subject']}"
        for alarm in clip["alarms"]
        if alarm["scenario"] == scenario and alarm["outcome"] == "false"
    ]
    if faults:
        _blame(case, "failure", f"{len(faults)} wrong", "\n".join(faults))
    elif clip["problems"]:  # nothing wrong was found, yet nobody can say that it is right
        _blame(case, "error", "could not be scored in full", "\n".join(clip["problems"]))
    return case


def _problem(clip: Document) -> ET.Element:
    case = ET.Element("testcase", classname="problems", name=_clean(clip["name"]))
    _blame(case, "error", "could not be scored in full", "\n".join(clip["problems"]))
    return case


def _blame(case: ET.Element, how: str, message: str, text: str) -> None:
    ET.SubElement(case, how, message=_clean(message)).text = _clean(text)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
