"""The console's own store: what it mirrors, its users, their sessions and what they did.

SQLite for one box, PostgreSQL where several consoles serve a district. A mirror can be had again from the feed, but
history, users and audit cannot: they are kept with the same care as the host's tickets.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pipeline.exceptions import StoreError

__all__ = [
    "Database",
    "audit",
    "commands",
    "in_subtree",
    "meta",
    "sessions",
    "statuses",
    "ticket_events",
    "tickets",
    "upsert",
    "users",
]

SCHEMA = 1
_BUSY_TIMEOUT_MS = 10_000

_metadata = sa.MetaData()
_Id = sa.String(64)
_Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")

tickets = sa.Table(
    "tickets",
    _metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("site", sa.String(64), nullable=False),
    sa.Column("host", sa.String(64), nullable=False),
    sa.Column("camera", sa.String(64), nullable=False),
    sa.Column("camera_name", sa.Text, nullable=False),
    sa.Column("grid", sa.String(255), nullable=False),
    sa.Column("scenario", sa.String(64), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("condition", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("title_zh", sa.Text, nullable=False),
    sa.Column("title_en", sa.Text, nullable=False),
    sa.Column("capture_t", sa.Float, nullable=False),
    sa.Column("raised_t", sa.Float, nullable=False),
    sa.Column("published_t", sa.Float, nullable=False),
    sa.Column("acknowledged_t", sa.Float),
    sa.Column("dispatched_t", sa.Float),
    sa.Column("disposed_t", sa.Float),
    sa.Column("updated_t", sa.Float, nullable=False),
    # When this version reached us: what the page asks for after it was away.
    sa.Column("received_t", sa.Float, nullable=False),
    # The host cleared the topic and we never saw how it ended (we were away): no longer open, outcome unknown.
    sa.Column("cleared_t", sa.Float),
    sa.Column("search", sa.Text, nullable=False),
    # Without the picture: a list of two hundred tickets must not drag 10 MB along.
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("thumbnail", sa.LargeBinary),
    sa.Index("ix_tickets_open", "is_open", "id"),
    sa.Index("ix_tickets_grid", "grid"),
    sa.Index("ix_tickets_raised", "raised_t"),
    sa.Index("ix_tickets_received", "received_t"),
)

ticket_events = sa.Table(
    "ticket_events",
    _metadata,
    sa.Column("ticket_id", _Id, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

statuses = sa.Table(
    "statuses",
    _metadata,
    sa.Column("site", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("subject", sa.String(64), primary_key=True),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("received_t", sa.Float, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

commands = sa.Table(
    "commands",
    _metadata,
    sa.Column("command_id", _Id, primary_key=True),
    sa.Column("ticket_id", _Id, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("expected_version", sa.Integer),
    sa.Column("sent_t", sa.Float, nullable=False),
    sa.Column("expires_t", sa.Float, nullable=False),
    # pending, ok, refused; pending after expires_t means that no host answered
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(32), nullable=False, default=""),
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("answered_t", sa.Float),
    sa.Index("ix_commands_ticket", "ticket_id", "sent_t"),
    sa.Index("ix_commands_state", "state", "expires_t"),
)

users = sa.Table(
    "users",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("grid", sa.String(255), nullable=False),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_t", sa.Float, nullable=False),
)

sessions = sa.Table(
    "sessions",
    _metadata,
    # SHA-256 of what the cookie holds: who reads the database cannot log in with it.
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),  # session, or link (used once)
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("created_t", sa.Float, nullable=False),
    sa.Column("expires_t", sa.Float, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Index("ix_sessions_who", "who"),
)

audit = sa.Table(
    "audit",
    _metadata,
    sa.Column("seq", _Seq, primary_key=True, autoincrement=True),
    sa.Column("t", sa.Float, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(128), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("ix_audit_kind", "kind", "t"),
)

meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def in_subtree(column: sa.ColumnElement[str], grid: str) -> sa.ColumnElement[bool]:
    """Whether the grid in `column` is `grid` or below it; everything is below ``""``."""
    if not grid:
        return sa.true()
    return sa.or_(column == grid, column.startswith(f"{grid}/", autoescape=True))


class Database:
    """The console's database, opened and brought up to date.

    Args:
        url: SQLAlchemy URL.

    Attributes:
        engine: For reading; writers use `write`.
        place: The URL without its password, for messages.

    Raises:
        StoreError: if it cannot be opened or was written by a newer console.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except (SQLAlchemyError, ValueError) as error:
            raise StoreError("console database: is no URL, expected dialect://...") from error
        self.place = f"console database {parsed.render_as_string(hide_password=True)}"
        if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")  # the driver of our extra
        try:
            self.engine = _engine(parsed)
        except (ImportError, OSError, SQLAlchemyError) as error:
            raise StoreError(f"{self.place}: cannot be opened: {error}") from error
        with self._mapped():
            self._prepare()

    @property
    def is_shared(self) -> bool:
        """Whether other consoles may use it at the same time."""
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection to read from."""
        with self._mapped(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end of the block."""
        with (
            self._mapped(),
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def secret(self, name: str) -> bytes:
        """A secret of this database, made on first use and the same for every console on it; 32 bytes."""
        return bytes.fromhex(self._kept(f"secret:{name}", secrets.token_hex(32)))

    @property
    def identity(self) -> str:
        """A random name of this database: an MQTT session belongs to it, not to the machine."""
        return self._kept("identity", secrets.token_hex(4))

    def _kept(self, key: str, fresh: str) -> str:
        with self.write() as connection:
            upsert(connection, meta, {"key": key}, {"value": fresh}, replace=False)
            return str(connection.scalar(sa.select(meta.c.value).where(meta.c.key == key)))

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"{self.place}: {str(error.orig).splitlines()[0]}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"{self.place}: {str(error).splitlines()[0]}") from error

    def _prepare(self) -> None:
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            if self.is_shared:  # two consoles that start together must not both create the tables
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7283642)"))
            _metadata.create_all(connection)
            upsert(connection, meta, {"key": "schema"}, {"value": str(SCHEMA)}, replace=False)
            found = int(
                connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema")) or 0
            )
        if found > SCHEMA:
            raise StoreError(
                f"{self.place}: has schema {found}, expected {SCHEMA} at most; "
                "it was written by a newer gridwatch"
            )


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    replace: bool = True,
    only_if: sa.ColumnElement[bool] | None = None,
) -> bool:
    """Insert a row, or change the one with that key.

    Args:
        connection: In a transaction.
        table: With `key` as its primary key.
        key: Of the row.
        values: Its other columns.
        replace: Whether a row that is there is changed.
        only_if: It is changed only if this holds of it as it is.

    Returns:
        Whether anything was written.
    """
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    statement = insert(table).values({**key, **values})
    if replace:
        statement = statement.on_conflict_do_update(
            index_elements=list(key), set_=dict(values), where=only_if
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=list(key))
    # SQLAlchemy keeps the count of updates alone, unless it is asked to.
    done = connection.execute(statement, execution_options={"preserve_rowcount": True})
    return done.rowcount > 0


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, pool_size=8)
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's
        # Transactions are begun below, by name: the driver's own begin late and as readers.
        connection.isolation_level = None
        for pragma in (
            "foreign_keys = ON",
            f"busy_timeout = {_BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
