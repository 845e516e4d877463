"""What moves at a site when an alarm is raised: a door that stays open, a voice that speaks.

An actuation is sent now or never: once, with the alarm's first version, never through the outbox, and not for what is
simulated, played from a file or seen too long ago. The actuator ignores it after `expires` and releases by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Protocol

import structlog
from pydantic import Field, StringConstraints

from alerts.dispatch import Names
from alerts.tickets import Ticket, seconds
from pipeline.observation import Json
from pipeline.units import Duration, Settings

__all__ = ["ActuatorSettings", "Actuators", "Send"]

log = structlog.get_logger(__name__)

FRESH_S = 10.0  # a door that closes on an e-bike of half a minute ago helps nobody


class ActuatorSettings(Settings):
    """One thing that an actuator beside the camera does at an alarm.

    Attributes:
        action: Such as `hold_door` or `voice_prompt`; part of the topic.
        hold: The actuator releases by itself after this; for those that hold something.
        text: What a voice says; a text, or one for each of `zh` and `en`.
        expires: An actuator that hears of it later than this must ignore it.
    """

    action: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    hold: Annotated[Duration, Field(gt=0)] | None = None
    text: Names = Names()
    expires: Annotated[Duration, Field(gt=0, le=60)] = 5.0


class Send(Protocol):
    """Tells an actuator something, as `alerts.mqtt.Publisher.actuate` does."""

    def __call__(
        self, camera_id: str, action: str, payload: Mapping[str, Json], *, expires_s: float
    ) -> bool:
        """Whether it was handed to a broker."""


class Actuators:
    """Actuates at raised alarms.

    Args:
        settings: By camera id and scenario.
        live: Ids of the cameras whose pictures are of now.
        send: Hands one actuation to the broker.
    """

    def __init__(
        self,
        settings: Mapping[str, Mapping[str, tuple[ActuatorSettings, ...]]],
        live: Collection[str],
        send: Send,
    ) -> None:
        self._settings = settings
        self._live = live
        self._send = send

    def raised(self, ticket: Ticket, t: float) -> int:
        """Actuate for a ticket that was raised at this moment, `t`; gives the number of messages sent."""
        wanted = self._settings.get(ticket.camera.id, {}).get(ticket.scenario, ())
        if not wanted or ticket.version != 1 or ticket.simulated:
            return 0
        if ticket.camera.id not in self._live or t - seconds(ticket.capture.time) > FRESH_S:
            return 0
        sent = 0
        for one in wanted:
            payload: dict[str, Json] = {
                "action": one.action,
                "ticket": ticket.id,
                "scenario": ticket.scenario,
            }
            if one.hold is not None:
                payload["hold_s"] = one.hold
            if one.text.zh or one.text.en:
                payload["text"] = {"zh": one.text.zh, "en": one.text.en}
            if self._send(ticket.camera.id, one.action, payload, expires_s=one.expires):
                sent += 1
            else:
                log.warning("actuator was not told", camera=ticket.camera.id, action=one.action)
        return sent
