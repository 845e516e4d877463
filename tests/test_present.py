"""Tickets and cameras as people read them, in both languages, whatever fields are missing or odd."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from alerts.rules import Decision
from alerts.tickets import (
    Act,
    Analysed,
    CameraRef,
    Captured,
    Disposed,
    Evidence,
    Outcome,
    Ticket,
    TicketCondition,
    TicketState,
    Title,
    Warned,
    instant,
)
from gridwatch import present
from gridwatch.present import Language, camera_line, say, ticket_line, ticket_panel, ticket_table
from pipeline.analyse.scenario import Severity
from pipeline.capture.reader import ReaderState

ZONE = ZoneInfo("Asia/Shanghai")
T = 1_780_000_000.0  # 2026-05-29 04:26:40 in Shanghai
LANGUAGES: tuple[Language, ...] = ("zh", "en")


def make(**changes: Any) -> Ticket:  # noqa: ANN401 - any field of a ticket
    """The barest ticket there can be."""
    fields: dict[str, Any] = {
        "id": "01J00000000000000000ABCDEF",
        "version": 1,
        "site": "s",
        "host": "box-1",
        "camera": CameraRef(id="gate", name=""),
        "grid": "",
        "scenario": "fire",
        "subject": "yard",
        "severity": "major",
        "title": Title(zh="火情", en="Fire"),
        "capture": Captured(time=instant(T)),
        "analyse": Analysed(confidence=0.87, since=instant(T - 3)),
        "warn": Warned(raised=instant(T), rule="", published=instant(T), age_s=0.0),
        "created": instant(T + 0.25),
        "updated": instant(T + 0.25),
    }
    return Ticket(**(fields | changes))


def full() -> Ticket:
    """A ticket with everything in it."""
    decision = Decision(
        camera_id="gate",
        scenario="fire",
        subject="yard",
        outcome="raised",
        code="raised",
        reason="held for 3.0 s",
        since=T - 3,
        t=T,
        held_s=3.0,
        known_s=3.0,
        ratio=1.0,
        parameters={"raise_after": 3.0},
        samples=[],
    )
    act = Act(by="wang", time=instant(T + 60), source="cli", note="on my way")
    picture = Evidence(
        kind="picture",
        path="gate/x.jpg",
        sha256="0" * 64,
        size_bytes=1,
        media_type="image/jpeg",
        start=instant(T),
        end=instant(T),
    )
    return make(
        version=4,
        camera=CameraRef(id="gate", name="东门 · East gate"),
        grid="jinjiang/12/3",
        severity="critical",
        state=TicketState.DISPOSED,
        condition=TicketCondition.CLEARED,
        capture=Captured(time=instant(T), width_px=1920, height_px=1080),
        analyse=Analysed(
            model="fire",
            confidence=0.87,
            since=instant(T - 3),
            detail={"flicker_hz": 6.125, "boxes": {"smoke": 0.5}, "list": [1, 2]},
            decision=decision,
        ),
        warn=Warned(
            raised=instant(T),
            rule="held for 3.0 s",
            published=instant(T),
            age_s=0.25,
            attached=2,
        ),
        dispose=Disposed(
            acknowledged=act,
            dispatched=act.model_copy(update={"to": "fire brigade"}),
            disposed=act,
            outcome=Outcome.FALSE_ALARM,
        ),
        evidence=(picture,),
        simulated=True,
    )


def shown(*things: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    for thing in things:
        console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def everything(ticket: Ticket, language: Language) -> str:
    return shown(
        ticket_line(ticket, language, ZONE),
        ticket_table([ticket], language, ZONE),
        ticket_panel(ticket, language, ZONE),
    )


@pytest.mark.parametrize("word", sorted(present._WORDS))
def test_every_word_has_both_translations(word: str) -> None:
    assert any("\u4e00" <= letter <= "\u9fff" for letter in say(word, "zh"))
    assert say(word, "en").strip()
    assert say(word, "en").isascii()


def test_every_state_is_in_the_vocabulary() -> None:
    said = {*TicketState, *TicketCondition, *Outcome, *ReaderState, *get_args(Severity)}
    assert {str(word) for word in said} <= present._WORDS.keys()


def test_an_unknown_word_stands_for_itself() -> None:
    assert say("melted", "zh") == "melted"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_barest_ticket_can_be_shown(language: Language) -> None:
    text = everything(make(), language)
    assert {"zh": "火情", "en": "Fire"}[language] in text
    assert "gate" in text
    assert "87%" in text
    assert "04:26:40" in text  # the site's time
    assert "None" not in text
    assert say("nobody", language) in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_in_a_ticket_is_shown(language: Language) -> None:
    ticket = full()
    text = everything(ticket, language)
    for said in (
        *("东门 · East gate", "jinjiang/12/3", "1920x1080", "flicker_hz=6.12", "held for 3.0 s"),
        *("0.25 s", "gate/x.jpg", "wang", "cli", "on my way", "→ fire brigade", ticket.id),
        *(say(word, language) for word in ("critical", "disposed", "false_alarm", "simulated")),
        *(say(word, language) for word in ("capture", "analyse", "warn", "dispose")),
    ):
        assert said in text, said


@given(text=st.text(max_size=30) | st.sampled_from(["[/red]", "[bold]", "[red", "\\[x]", "[1, 2]"]))
def test_what_people_and_cameras_write_is_shown_as_it_is(text: str) -> None:
    act = Act(by="wang", time=instant(T), note=text)
    ticket = make(
        camera=CameraRef(id="gate", name=text),
        analyse=Analysed(confidence=0.5, since=instant(T), detail={"text": text}),
        dispose=Disposed(acknowledged=act),
    )
    shown_text = everything(ticket, "en") + shown(camera_line("camera", "gate", "x", text, "en"))
    if text.isascii() and text.isprintable() and len(text.split()) == 1:
        assert shown_text.count(text.strip()) >= 4


def test_the_table_has_the_newest_first_and_says_when_there_is_none() -> None:
    early, late = make(), make(id="01J00000000000000000000009")
    late = late.model_copy(
        update={"warn": late.warn.model_copy(update={"raised": instant(T) + timedelta(hours=1)})}
    )
    text = shown(ticket_table([early, late], "en", ZONE))
    assert text.index(late.id) < text.index(early.id)
    assert shown(ticket_table([], "zh", ZONE)).strip() == say("none_open", "zh")
    assert shown(ticket_table([], "en", ZONE)).strip() == "No open tickets"


def test_what_was_raised_is_not_a_time() -> None:
    assert (say("raised", "zh"), say("raised_t", "zh")) == ("告警", "告警时间")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_camera_says_its_state_and_why(language: Language) -> None:
    line = camera_line("camera", "gate", "backing_off", "connection refused", language).plain
    assert "gate" in line
    assert say("backing_off", language) in line
    assert "(connection refused)" in line
    assert camera_line("host", "box-1", "online", "", language).plain.endswith(
        say("online", language)
    )
