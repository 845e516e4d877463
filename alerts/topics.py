"""Every MQTT topic of gridwatch, in one place: prefix ``gridwatch/{site}/``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.exceptions import CommandError, ConfigError

__all__ = ["ROOT", "Topics"]

ROOT = "gridwatch"
_FORBIDDEN = re.compile(r"[+#\x00]")


def _level(text: str, what: str) -> str:
    if not text or "/" in text:
        raise ConfigError(f"{what}: expected one topic level without '/', found {text!r}")
    return _path(text, what)


def _path(text: str, what: str) -> str:
    levels = text.split("/")
    if not all(levels) or _FORBIDDEN.search(text) or levels[0].startswith("$"):
        raise ConfigError(f"{what}: expected topic levels without '+', '#' or gaps, found {text!r}")
    return text


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one site.

    Attributes:
        site: One topic level.

    Raises:
        ConfigError: from the constructor and every method, if a name cannot be part of a topic.
    """

    site: str

    def __post_init__(self) -> None:
        _level(self.site, "site")

    @property
    def prefix(self) -> str:
        """``gridwatch/{site}``, without a trailing slash."""
        return f"{ROOT}/{self.site}"

    def ticket(self, ticket_id: str) -> str:
        """The whole ticket; retained while it is open."""
        return f"{self.prefix}/tickets/{_level(ticket_id, 'ticket id')}"

    def event(self, scenario: str, stage: str) -> str:
        """Each change of a ticket, by scenario and the state that it has now."""
        return f"{self.prefix}/events/{_level(scenario, 'scenario')}/{_level(stage, 'stage')}"

    def inbox(self, grid: str) -> str:
        """What a responder of the grid at this path subscribes to."""
        return f"{self.prefix}/grids/{_path(grid, 'grid')}/inbox"

    def camera_status(self, camera_id: str) -> str:
        """Retained status of a camera."""
        return f"{self.prefix}/cameras/{_level(camera_id, 'camera id')}/status"

    def host_status(self, host: str) -> str:
        """Retained status of a host; its last will says ``offline``."""
        return f"{self.prefix}/hosts/{_level(host, 'host')}/status"

    def command(self, user: str, ticket_id: str) -> str:
        """Where a user commands a ticket; the broker's ACL lets each user write under the own name alone."""
        return (
            f"{self.prefix}/commands/{_level(user, 'user')}"
            f"/tickets/{_level(ticket_id, 'ticket id')}"
        )

    @property
    def commands(self) -> str:
        """The filter of all commands on tickets."""
        return f"{self.prefix}/commands/+/tickets/+"

    def reply(self, user: str, command_id: str) -> str:
        """The answer to a command."""
        return f"{self.prefix}/replies/{_level(user, 'user')}/{_level(command_id, 'command id')}"

    def actuator(self, camera_id: str, action: str) -> str:
        """Where an actuator listens; never through the outbox."""
        return (
            f"{self.prefix}/actuators/{_level(camera_id, 'camera id')}/{_level(action, 'action')}"
        )

    def parse_command(self, topic: str) -> tuple[str, str]:
        """The (user, ticket id) of a command's topic.

        Raises:
            CommandError: code ``malformed``, if it is no command topic of this site.
        """
        rest = topic.removeprefix(f"{self.prefix}/commands/").split("/")
        if topic.startswith(f"{self.prefix}/commands/") and len(rest) == 3 and all(rest):
            user, kind, ticket_id = rest
            if kind == "tickets":
                return user, ticket_id
        raise CommandError(
            f"topic {topic!r}: expected {self.prefix}/commands/{{user}}/tickets/{{id}}",
            code="malformed",
        )
