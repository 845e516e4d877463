"""A cameras.yaml that changes while the daemon runs: notice it, check it, and tell what it takes to apply it.

The engine looks after its own file, for it has everything loaded that checking one takes; the supervisor only passes on
a SIGHUP and starts the next engine where one is needed. What has not been found valid is never applied, and the last
text with which an engine ran is kept beside the store, so that a crash does not end the daemon on a half-edited file.
The file that `dispatch.grids_file` names is a part of cameras.yaml in all of this.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gridwatch.config import CameraSettings, Config, grids_file_of, parse_config
from gridwatch.located_yaml import load_located
from pipeline.exceptions import ConfigError

__all__ = [
    "ACCEPTED",
    "Candidate",
    "ConfigWatch",
    "Difference",
    "Revision",
    "compare",
    "keep_accepted",
    "read_accepted",
    "read_revision",
]

log = structlog.get_logger(__name__)

# In the state folder, which only the daemon's user may enter.
ACCEPTED = "accepted.yaml"
ACCEPTED_GRIDS = "accepted-grids.yaml"
POLL_S = 1.0  # reading and hashing some kilobytes; an operator does not notice the second

# What a running engine takes over for a camera. Everything else opens streams, loads models or moves state.
_IN_PLACE = frozenset({"grid", "group", "health", "name", "privacy", "scenarios", "simulated"})


@dataclass(frozen=True, slots=True)
class Revision:
    """One content of cameras.yaml, and of the grids file that it names.

    Attributes:
        text: Its bytes.
        sha256: Of them, in hexadecimal.
        grids_file: What `dispatch.grids_file` names; None if it names none, or cannot be told.
        grids: The bytes of that file; None if it cannot be read.
    """

    text: bytes
    sha256: str
    grids_file: Path | None = None
    grids: bytes | None = None

    @classmethod
    def of(
        cls, text: bytes, grids_file: Path | None = None, grids: bytes | None = None
    ) -> Revision:
        """The revision with these bytes."""
        return cls(text, hashlib.sha256(text).hexdigest(), grids_file, grids)

    def parse(self, file: Path, overrides: Sequence[str] = ()) -> Config:
        """The configuration in it, with paths relative to `file`.

        Raises:
            ConfigError: as `gridwatch.config.load_config`.
        """
        return parse_config(load_located(file, text=self.text), overrides, grids=self.grids)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A changed file that was read and checked.

    Attributes:
        revision: What stands in it.
        config: None if it is not valid.
        problems: Then one line each: file, line, path, found, expected.
    """

    revision: Revision
    config: Config | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What it takes to go from one configuration to another.

    Attributes:
        cameras: Whose new settings a running engine can take over.
        restart: Paths of what needs a new engine.
        refused: Paths of what needs a new daemon.
    """

    cameras: tuple[CameraSettings, ...] = ()
    restart: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def read_revision(
    file: Path, overrides: Sequence[str] = (), former: Revision | None = None
) -> Revision:
    """What stands in `file`, and in the grids file that it names, now.

    Args:
        file: cameras.yaml.
        overrides: Those of the command line.
        former: An earlier one of the same file; a text that has not changed is not searched again for its grids file.

    Raises:
        ConfigError: if cameras.yaml cannot be read.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}; expected a YAML file"
        ) from error
    grids_file: Path | None = None
    if former is not None and former.text == text:
        grids_file = former.grids_file
    else:
        with contextlib.suppress(ConfigError):  # who parses it is told
            grids_file = grids_file_of(load_located(file, text=text), overrides)
    return Revision.of(text, grids_file, _bytes_of(grids_file))


def keep_accepted(folder: Path, revision: Revision) -> None:
    """Keep the texts with which an engine runs in `folder`, readable by their owner alone."""
    with contextlib.suppress(OSError):  # on a full disk the daemon still runs
        _keep(folder / ACCEPTED_GRIDS, revision.grids)
        _keep(folder / ACCEPTED, revision.text)


def read_accepted(folder: Path) -> Revision | None:
    """What `keep_accepted` kept; None if it never did."""
    text = _bytes_of(folder / ACCEPTED)
    return None if text is None else Revision.of(text, grids=_bytes_of(folder / ACCEPTED_GRIDS))


def _keep(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(content)
    temporary.replace(path)


def _bytes_of(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError:
        return None


def compare(old: Config, new: Config) -> Difference:
    """What changed, sorted by what it takes."""
    restart = [
        name
        for name in Config.model_fields
        if name != "cameras" and getattr(old, name) != getattr(new, name)
    ]
    refused = []
    if old.state_folder() != new.state_folder():
        # The supervisor holds the lock there, and the open tickets stay behind.
        refused.append("storage.folder" if old.site.id == new.site.id else "site.id")
    before, after = ({c.id: c for c in config.cameras} for config in (old, new))
    changed: list[CameraSettings] = []
    for camera_id in sorted(before.keys() ^ after.keys()):
        camera = before.get(camera_id) or after[camera_id]
        if camera.enabled:
            restart.append(f"cameras.{camera_id}")
    for camera_id in [c for c in after if c in before]:
        keys = _changed_keys(before[camera_id], after[camera_id])
        if not (before[camera_id].enabled or after[camera_id].enabled):
            continue
        restart += [f"cameras.{camera_id}.{key}" for key in keys if key not in _IN_PLACE]
        if keys:
            restart += _deeper(before[camera_id], after[camera_id])
            changed.append(after[camera_id])
    return Difference(tuple(changed), tuple(restart), tuple(refused))


def _changed_keys(old: CameraSettings, new: CameraSettings) -> list[str]:
    return [
        name for name in CameraSettings.model_fields if getattr(old, name) != getattr(new, name)
    ]


def _deeper(old: CameraSettings, new: CameraSettings) -> list[str]:
    """What a running engine cannot take over although it stands under a key that it can."""
    from gridwatch.host import models_needed  # it imports us

    place = f"cameras.{new.id}"
    if (old.health is None) != (new.health is None):
        return [f"{place}.health"]
    if list(old.scenarios) != list(new.scenarios):
        return [f"{place}.scenarios"]
    if models_needed([old]).keys() != models_needed([new]).keys():
        return [f"{place} (models)"]
    return []


class ConfigWatch:
    """Watches the file in a thread of its own, because checking a large one takes its time.

    A change counts when two looks in a row find the same content: an editor may be in the middle of writing it.

    Args:
        file: cameras.yaml.
        known: Its content that needs no look: in force, or refused already.
        overrides: Those of the command line.
        poll: Look about once a second; otherwise only when asked.
    """

    def __init__(
        self, file: Path, known: Revision, overrides: Sequence[str] = (), *, poll: bool = True
    ) -> None:
        self._file = file
        self._overrides = list(overrides)
        self._poll = poll
        self._known = known
        self._seen = known
        self._asked = threading.Event()
        self._wake = threading.Event()
        self._closing = False
        self._candidates: queue.SimpleQueue[Candidate] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="config", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Watch no longer; returns at once."""
        self._closing = True
        self._wake.set()

    def ask(self) -> None:
        """Look now, and take what is found for changed: the secrets that it names may be."""
        self._asked.set()
        self._wake.set()

    def take(self) -> Candidate | None:
        """The newest change, if there is one that has not been taken."""
        newest: Candidate | None = None
        with contextlib.suppress(queue.Empty):
            while True:
                newest = self._candidates.get_nowait()
        return newest

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(POLL_S if self._poll else None)
            self._wake.clear()
            asked = self._asked.is_set()
            self._asked.clear()
            if not self._closing and (asked or self._poll):
                self._look(asked=asked)

    def _look(self, *, asked: bool) -> None:
        try:
            revision = read_revision(self._file, self._overrides, self._seen)
        except ConfigError as error:
            if asked:  # otherwise an editor may be about to put the new file in its place
                self._candidates.put(Candidate(Revision.of(b""), None, error.problems))
            return
        still = revision == self._seen
        self._seen = revision
        if not asked and (revision == self._known or not still):
            return
        self._known = revision
        try:
            config = revision.parse(self._file, self._overrides)
        except ConfigError as error:
            self._candidates.put(Candidate(revision, None, error.problems))
        except Exception as error:  # whatever it is, the daemon goes on with what it has
            log.exception("configuration cannot be checked")
            problem = f"{self._file}: cannot be checked: {type(error).__name__}"
            self._candidates.put(Candidate(revision, None, (problem,)))
        else:
            self._candidates.put(Candidate(revision, config))
