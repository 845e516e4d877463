"""Every error of gridwatch. Foreign errors are mapped to these once, where they enter.

A message is one line: the place, what was found, what was expected. It never holds a secret.

    GridwatchError
    ├── ConfigError      the operator mends cameras.yaml; caught by the command line
    │   └── StaleConfigError   somebody else changed the file meanwhile; the console shows it anew
    ├── CaptureError     a stream failed; caught by the camera's reader, which backs off and retries
    ├── ModelError       a weight file or its registry entry is unusable; its cameras run without it
    ├── ScenarioError    a scenario plug-in is missing or misbehaves; that scenario is switched off
    ├── NotKeptError     a replay asks for what its log does not hold; the run must be made again
    ├── StoreError       the ticket store cannot be opened or written; the engine stops and is restarted
    ├── EvidenceError    a picture or clip could not be made; the ticket goes out without it
    ├── BrokerError      the broker refuses us; the publisher keeps the outbox and retries
    └── CommandError     a command on a ticket was refused; answered on the reply topic
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "CaptureError",
    "CommandError",
    "ConfigError",
    "EvidenceError",
    "GridwatchError",
    "ModelError",
    "NotKeptError",
    "ScenarioError",
    "StaleConfigError",
    "StoreError",
]


class GridwatchError(Exception):
    """Base of all errors that gridwatch raises on purpose; the command line prints it without a traceback."""


class ConfigError(GridwatchError):
    """The configuration is wrong.

    Args:
        problems: One line each: file, line, path, what was found, what was expected.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StaleConfigError(ConfigError):
    """The configuration is not the one that a change was made for."""


class CaptureError(GridwatchError):
    """A stream could not be opened or read.

    Args:
        message: One line, with any URL redacted.
        retryable: Whether trying again without a change can help (a wrong password cannot).
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class ModelError(GridwatchError):
    """A model file, its hash, its layout or its registry entry is unusable."""


class ScenarioError(GridwatchError):
    """A scenario plug-in is unknown, cannot be loaded or broke its contract."""


class NotKeptError(GridwatchError):
    """A replay needs the pictures: its detection log does not hold what is asked for."""


class StoreError(GridwatchError):
    """The ticket store cannot be opened, migrated or written."""


class EvidenceError(GridwatchError):
    """A picture or a clip could not be made or written."""


class BrokerError(GridwatchError):
    """The broker refused the connection or a message."""


class CommandError(GridwatchError):
    """A command on a ticket was refused.

    Args:
        message: One line for the person who sent it.
        code: Machine-readable reason, e.g. ``illegal_transition``, ``version_conflict``, ``malformed``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
