"""Tickets and cameras as people read them in a terminal, in zh-CN or English."""

from __future__ import annotations

from datetime import tzinfo
from typing import Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alerts.tickets import Act, Ticket, TicketCondition, TicketState

__all__ = ["Language", "camera_line", "plain", "say", "ticket_line", "ticket_panel", "ticket_table"]

Language = Literal["zh", "en"]

_WORDS: dict[str, tuple[str, str]] = {
    "acknowledge": ("确认", "acknowledge"),
    "dispatch": ("派单", "dispatch"),
    "escalated": ("上报", "called upwards"),
    "from": ("来源", "from"),
    "note": ("备注", "note"),
    "photo": ("照片", "photo"),
    "reassign": ("转派", "reassign"),
    "reassigned": ("已转派", "reassigned"),
    "refused": ("拒绝的操作", "refused"),
    "reopen": ("重新打开", "reopen"),
    "reopened": ("已重新打开", "reopened"),
    "uncalled": ("通知未送达", "could not be called"),
    "unpublished": ("未能发布", "not published"),
    "updated": ("更新", "updated"),
    "version": ("版本", "version"),
    "what": ("操作", "what"),
    "who": ("人员", "who"),
    "acknowledged": ("已确认", "acknowledged"),
    "age": ("画面到发布", "picture to message"),
    "analyse": ("分析", "Analyse"),
    "attached": ("并入告警", "further alarms"),
    "camera": ("摄像机", "camera"),
    "capture": ("采集", "Capture"),
    "cleared": ("现场已恢复", "condition cleared"),
    "clip": ("录像", "clip"),
    "code": ("代码", "code"),
    "confidence": ("置信度", "confidence"),
    "confirmed": ("属实", "confirmed"),
    "critical": ("紧急", "critical"),
    "detail": ("依据", "measured"),
    "dispatched": ("已派单", "dispatched"),
    "dispose": ("处置", "Dispose"),
    "disposed": ("已处置", "disposed"),
    "duplicate": ("重复", "duplicate"),
    "evidence": ("证据", "evidence"),
    "false_alarm": ("误报", "false alarm"),
    "grid": ("网格", "grid"),
    "held": ("成立", "held"),
    "holding": ("持续中", "ongoing"),
    "backing_off": ("重连等待", "waiting to reconnect"),
    "connecting": ("连接中", "connecting"),
    "ended": ("已结束", "ended"),
    "host": ("主机", "host"),
    "offline": ("离线", "offline"),
    "online": ("在线", "online"),
    "quarantined": ("已隔离", "quarantined"),
    "running": ("正常", "running"),
    "stalled": ("无数据", "stalled"),
    "id": ("编号", "ticket"),
    "known": ("可见", "known"),
    "listening": ("正在收看，Ctrl-C 结束", "listening; Ctrl-C ends it"),
    "major": ("重要", "major"),
    "minor": ("一般", "minor"),
    "nobody": ("尚无人处理", "nobody yet"),
    "none_decided": ("没有决策记录", "No decision records"),
    "none_open": ("没有未处置的工单", "No open tickets"),
    "open": ("未处置", "open"),
    "outcome": ("结果", "outcome"),
    "picture": ("画面", "picture"),
    "raised": ("告警", "raised"),
    "raised_t": ("告警时间", "raised"),
    "rule": ("规则", "rule"),
    "scenario": ("场景", "scenario"),
    "severity": ("级别", "severity"),
    "simulated": ("模拟画面", "simulated"),
    "since": ("起始", "since"),
    "state": ("状态", "state"),
    "suppressed": ("未告警", "suppressed"),
    "test": ("测试", "test"),
    "time": ("时间", "time"),
    "title": ("事件", "event"),
    "unknown": ("画面中断", "not visible"),
    "update": ("更新", "update"),
    "warn": ("预警", "Warn"),
    "warned": ("待处理", "warned"),
    "why": ("告警原因", "why"),
}

_SEVERITY_STYLE = {
    "critical": "bold white on red",
    "major": "bold black on yellow",
    "minor": "black on cyan",
}
_STATE_STYLE = {
    TicketState.WARNED: "bold red",
    TicketState.ACKNOWLEDGED: "yellow",
    TicketState.DISPATCHED: "blue",
    TicketState.DISPOSED: "green",
}


def say(word: str, language: Language) -> str:
    """A word of the operators' vocabulary; the word itself where it is not in it."""
    pair = _WORDS.get(word)
    return word if pair is None else pair[0 if language == "zh" else 1]


def ticket_line(
    ticket: Ticket, language: Language, zone: tzinfo, before: Ticket | None = None
) -> Text:
    """One line of the feed; against the version `before`, it says what is new when nobody's action is."""
    line = Text()
    line.append(ticket.updated.astimezone(zone).strftime("%H:%M:%S "), style="dim")
    line.append(f" {say(ticket.severity, language)} ", style=_SEVERITY_STYLE[ticket.severity])
    line.append(f" {_title(ticket, language)}", style="bold")
    line.append(f"  {plain(ticket.camera.name or ticket.camera.id)}")
    if ticket.grid:
        line.append(f" · {plain(ticket.grid)}", style="dim")
    line.append(f"  {say(ticket.state, language)}", style=_STATE_STYLE[ticket.state])
    if ticket.dispose.outcome is not None:
        line.append(f" ({say(ticket.dispose.outcome, language)})", style="green")
    elif ticket.condition is not TicketCondition.HOLDING:
        line.append(f" ({say(ticket.condition, language)})", style="dim")
    line.append(f"  {ticket.analyse.confidence:.0%}", style="cyan")
    line.append(f"  …{ticket.id[-6:]} v{ticket.version}", style="dim")
    if before is not None and len(ticket.evidence) > len(before.evidence):
        line.append(f"  + {say(ticket.evidence[-1].kind, language)}", style="dim")
    elif (
        before is not None and ticket.state is before.state and ticket.condition is before.condition
    ):
        line.append(f"  {say('update', language)}", style="dim")
    if ticket.simulated:
        line.append(f"  [{say('simulated', language)}]", style="magenta")
    return line


def camera_line(kind: str, subject: str, state: str, reason: str, language: Language) -> Text:
    """A camera's or a host's change of state in the feed."""
    good = state in ("running", "online", "ended")
    line = Text("         ")
    line.append(f"{say(kind, language)} {plain(subject)}: ", style="dim")
    line.append(plain(say(state, language)), style="green" if good else "bold yellow")
    if reason:
        line.append(f" ({plain(reason)})", style="dim")
    return line


def ticket_table(tickets: list[Ticket], language: Language, zone: tzinfo) -> RenderableType:
    """The open tickets, newest first."""
    if not tickets:
        return Text(say("none_open", language), style="green")
    table = Table(box=None, header_style="bold dim", pad_edge=False)
    for word in ("raised_t", "severity", "title", "camera", "grid", "state", "confidence", "id"):
        table.add_column(say(word, language), no_wrap=word in ("raised_t", "id"))
    for ticket in sorted(tickets, key=lambda one: one.warn.raised, reverse=True):
        state = Text(say(ticket.state, language), style=_STATE_STYLE[ticket.state])
        if ticket.condition is not TicketCondition.HOLDING:
            state.append(f" ({say(ticket.condition, language)})", style="dim")
        table.add_row(
            ticket.warn.raised.astimezone(zone).strftime("%m-%d %H:%M:%S"),
            Text(say(ticket.severity, language), style=_SEVERITY_STYLE[ticket.severity]),
            Text(_title(ticket, language)),
            Text(plain(ticket.camera.name or ticket.camera.id)),
            Text(plain(ticket.grid)),
            state,
            f"{ticket.analyse.confidence:.0%}",
            ticket.id,
        )
    return table


def ticket_panel(ticket: Ticket, language: Language, zone: tzinfo) -> RenderableType:
    """One ticket with its four sections, one per stage."""

    def moment(value: object) -> str:
        return (
            value.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
            if hasattr(value, "astimezone")
            else ""
        )

    def section(name: str, rows: list[tuple[str, str]]) -> Table:
        table = Table(
            box=None,
            show_header=False,
            title=say(name, language),
            title_justify="left",
            title_style="bold cyan",
        )
        table.add_column(style="dim", min_width=12)
        table.add_column(overflow="fold")
        for key, value in rows:
            if value:
                table.add_row(say(key, language), Text(plain(value)))
        return table

    captured, analysed, warned, disposal = (
        ticket.capture,
        ticket.analyse,
        ticket.warn,
        ticket.dispose,
    )
    size = f"  {captured.width_px}x{captured.height_px}" if captured.width_px else ""
    sections = [
        section(
            "capture",
            [
                ("camera", f"{ticket.camera.name} ({ticket.camera.id})"),
                ("grid", ticket.grid),
                ("time", moment(captured.time) + size),
                ("simulated", "✓" if ticket.simulated else ""),
            ],
        ),
        section(
            "analyse",
            [
                ("since", moment(analysed.since)),
                ("confidence", f"{analysed.confidence:.0%}"),
                ("detail", "  ".join(f"{k}={_short(v)}" for k, v in analysed.detail.items())),
                ("why", analysed.decision.reason if analysed.decision else ""),
            ],
        ),
        section(
            "warn",
            [
                ("raised_t", moment(warned.raised)),
                ("rule", warned.rule),
                ("age", f"{(ticket.created - captured.time).total_seconds():.2f} s"),
                ("attached", str(warned.attached or "")),
                ("evidence", "\n".join(item.url or item.path for item in ticket.evidence)),
            ],
        ),
        section("dispose", _acts(ticket, language, zone) or [("state", say("nobody", language))]),
    ]
    heading = Text.assemble(
        (f" {say(ticket.severity, language)} ", _SEVERITY_STYLE[ticket.severity]),
        f" {_title(ticket, language)}  ",
        (say(ticket.state, language), _STATE_STYLE[ticket.state]),
        (f" ({say(disposal.outcome, language)})" if disposal.outcome else "", "green"),
    )
    return Panel(Group(*sections), title=heading, subtitle=f"{ticket.id} v{ticket.version}")


def _acts(ticket: Ticket, language: Language, zone: tzinfo) -> list[tuple[str, str]]:
    disposal = ticket.dispose
    acts: list[tuple[str, Act | None]] = [
        ("acknowledged", disposal.acknowledged),
        ("dispatched", disposal.dispatched),
        ("disposed", disposal.disposed),
        ("reopened", disposal.reopened),
        ("reassigned", disposal.reassigned),
        *(("note", note) for note in disposal.notes),
    ]
    rows = []
    for word, act in acts:
        if act is not None:
            when = act.time.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
            parts = [when, act.by, act.source, f"→ {act.to}" if act.to else "", act.note]
            if word == "disposed" and disposal.outcome is not None:
                parts.append(say(disposal.outcome, language))
            rows.append((word, "  ".join(part for part in parts if part)))
    return rows


def _title(ticket: Ticket, language: Language) -> str:
    return plain(ticket.title.zh if language == "zh" else ticket.title.en)


def plain(text: str) -> str:
    """What others wrote, without characters that would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    return str(value)
