"""News between the consoles of one PostgreSQL: what one of them wrote, the pages of all of them show.

``NOTIFY`` belongs to the transaction, so that nobody hears of what is not committed, nor misses what is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa
import structlog

from console.database import Database
from pipeline.exceptions import StoreError

__all__ = ["Relay", "announce"]

log = structlog.get_logger(__name__)

CHANNEL = "gridwatch_console"
_IDS = 100  # per note: PostgreSQL takes 8,000 bytes, and an id may have 64
_LOOK_S = 1.0
_RETRY_S = 3.0


def announce(connection: sa.Connection, instance: str, kind: str, subjects: Sequence[str]) -> None:
    """Tell the other consoles, at the commit, what this transaction changed; nothing on SQLite."""
    if connection.dialect.name != "postgresql":
        return
    for start in range(0, len(subjects), _IDS):
        note = json.dumps([instance, kind, list(subjects[start : start + _IDS])])
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, note)))


class Relay:
    """Listens to the other consoles.

    Args:
        database: A shared one.
        instance: Of our own mirror, whose notes are not news to us.
        on_change: Told what another console changed.
    """

    def __init__(
        self, database: Database, instance: str, on_change: Callable[[str, Sequence[str]], None]
    ) -> None:
        self._database = database
        self._instance = instance
        self._on_change = on_change
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        failing = False
        while not self._closing.is_set():
            try:
                self._listen()
                failing = False
            except (StoreError, sa.exc.SQLAlchemyError, OSError) as error:
                if not failing:
                    log.warning("no news from other consoles, retrying", error=str(error))
                failing = True
                self._closing.wait(_RETRY_S)

    def _listen(self) -> None:
        import psycopg

        raw = self._database.engine.raw_connection()
        driver = raw.driver_connection
        if not isinstance(driver, psycopg.Connection):
            raise StoreError(f"{self._database.place}: expected the driver psycopg")
        raw.detach()  # it is ours until the end, and never goes back to the pool
        try:
            driver.autocommit = True
            driver.execute(f"LISTEN {CHANNEL}")
            while not self._closing.is_set():
                for note in driver.notifies(timeout=_LOOK_S):
                    instance, kind, subjects = json.loads(note.payload)
                    if instance != self._instance:
                        self._on_change(kind, subjects)
                    if self._closing.is_set():
                        return
        except psycopg.Error as error:
            raise StoreError(f"{self._database.place}: {str(error).splitlines()[0]}") from error
        finally:
            driver.close()
