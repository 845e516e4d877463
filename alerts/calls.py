"""A call: one person is to hear of one thing about one ticket; stored with the version that causes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.analyse.scenario import Severity

__all__ = ["Call", "CallReason", "CallState"]

CallReason = Literal[
    "raised", "reopened", "reassigned", "dispatched", "unacknowledged", "undisposed"
]
CallState = Literal["waiting", "sent", "answered", "failed"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call and what became of it.

    Attributes:
        key: ``{ticket id}:{version}:{person}``; what is called twice has the same.
        person: Id in the settings.
        inbox: Path of the grid or ``departments/{name}`` as whose responder the person is called.
        version: Of the ticket, that caused it.
        created_t: When it was caused; `due_t` when it is to be tried next. Seconds since the epoch.
        attempts: Deliveries that failed.
        state: ``answered`` means that there was no need any more: somebody had taken the ticket.
        done_t: When it came to its end; None while it waits.
    """

    key: str
    person: str
    inbox: str
    ticket_id: str
    version: int
    reason: CallReason
    severity: Severity
    created_t: float
    due_t: float
    attempts: int = 0
    state: CallState = "waiting"
    done_t: float | None = None

    @classmethod
    def of(
        cls,
        person: str,
        inbox: str,
        ticket_id: str,
        version: int,
        reason: CallReason,
        severity: Severity,
        t: float,
    ) -> Call:
        """A new call at `t`."""
        key = f"{ticket_id}:{version}:{person}"
        return cls(key, person, inbox, ticket_id, version, reason, severity, t, t)
