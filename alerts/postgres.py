"""What the ticket store needs of PostgreSQL: connections that notice a lost server, guards of the audit trail, words.

The extra ``postgres`` brings the driver (psycopg 3). Where SQLite has one writer at a time, an advisory lock gives the
same here, so that the numbers of the outbox follow the order of the commits and a reader overlooks none.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pipeline.exceptions import StoreError

__all__ = [
    "GUARDS",
    "committed",
    "explain",
    "is_away",
    "lock",
    "place_of",
    "postgres_engine",
    "transaction_id",
]

# "gwtc": the same number that marks a SQLite file as ours.
_LOCK = 0x67777463
_CONNECT_TIMEOUT_S = 5
# A server that vanishes without a word (power cut, firewall) is noticed after about this long, on both ends.
_SILENCE_S = 15
_KEEPALIVE = {"idle": 5, "interval": 5, "count": 2}
# Longer than a writer takes for a hundred batches; then it says who is in the way and tries again.
_LOCK_TIMEOUT_S = 30

# A connection's own trouble, by SQLSTATE: the server ends it, starts, is full, or is a stand-by for the moment.
_AWAY = frozenset({"25006", "25P03", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03"})

GUARDS = (
    """
    CREATE FUNCTION events_guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- Only together with their ticket, when its time has come.
        IF TG_OP = 'DELETE' THEN
            IF NOT EXISTS (SELECT 1 FROM tickets WHERE id = OLD.ticket_id) THEN
                RETURN OLD;
            END IF;
        END IF;
        RAISE EXCEPTION 'events are never rewritten';
    END $$
    """,
    """
    CREATE TRIGGER events_no_rewrite BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION events_guard()
    """,
    """
    CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_guard()
    """,
)


def place_of(url: sa.URL) -> str:
    """The database as it may be named in an error: no password, not even one among the options."""
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"store postgresql://{user}{url.host or ''}{port}/{url.database or ''}"


def postgres_engine(url: sa.URL, *, read_only: bool) -> sa.Engine:
    """The engine of a PostgreSQL URL.

    Args:
        url: Of any spelling: ``postgres://``, ``postgresql://`` and ``postgresql+psycopg://`` are the same here.
        read_only: Refuse to write.

    Raises:
        StoreError: if the driver is missing or the URL names another.
    """
    place = place_of(url)
    if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise StoreError(f"{place}: found driver {url.drivername!r}, expected postgresql+psycopg")
    settings = {
        "client_encoding": "utf8",
        "lock_timeout": f"{_LOCK_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": "60s",
        **{f"tcp_keepalives_{name}": str(value) for name, value in _KEEPALIVE.items()},
    }
    if read_only:
        settings["default_transaction_read_only"] = "on"
    given = str(url.query.get("options", ""))
    options = " ".join([given, *(f"-c {name}={value}" for name, value in settings.items())])
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=_CONNECT_TIMEOUT_S,
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "application_name": "gridwatch",
                "tcp_user_timeout": _SILENCE_S * 1000,
                **{f"keepalives_{name}": value for name, value in _KEEPALIVE.items()},
                "options": options.strip(),
            },
        )
    except (ImportError, SQLAlchemyError) as error:
        raise StoreError(
            f"{place}: its driver is missing ({error}); expected gridwatch[postgres]"
        ) from error

    @sa.event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: object) -> None:  # noqa: ANN401 - psycopg's
        # A server may be set to confirm what is not on its disk yet; stronger settings than "on" stay.
        if connection.execute("SHOW synchronous_commit").fetchone()[0] == "off":
            connection.execute("SET synchronous_commit = on")
        connection.commit()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            lock(connection)

    return engine


def lock(connection: sa.Connection) -> None:
    """One writer at a time, until the end of the transaction."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def transaction_id(connection: sa.Connection) -> int:
    """Names this transaction, so that its fate can be asked for where the answer to its commit was lost."""
    return int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())


def committed(connection: sa.Connection, transaction: int) -> bool:
    """Whether an earlier transaction, which held the lock that we hold now, was committed."""
    asked = f"SELECT pg_xact_status('{transaction}'::xid8)"
    return bool(connection.exec_driver_sql(asked).scalar_one() == "committed")


def is_away(error: BaseException | None) -> bool:
    """Whether the server could not be reached or ended the connection: the same may succeed later."""
    if not isinstance(error, DBAPIError):
        return isinstance(
            error, sa.exc.TimeoutError
        )  # all connections of the pool are waiting for it
    if not type(error.orig).__module__.startswith("psycopg"):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # never came to the server
        return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
    return state.startswith("08") or state in _AWAY


def explain(message: str) -> str:
    """PostgreSQL's error in the operator's words, in one line."""
    lowered = message.lower()
    for needle, words in (
        ("password authentication failed", "refuses this user and password"),
        ("no password supplied", "wants a password, found none in the URL"),
        ("no pg_hba.conf entry", "lets this user not in from here (pg_hba.conf)"),
        ("connection refused", "cannot be reached: nobody listens there"),
        ("could not translate host name", "cannot be reached: its name is unknown"),
        ("name or service not known", "cannot be reached: its name is unknown"),
        ("failed to resolve host", "cannot be reached: its name is unknown"),
        ("timeout expired", "cannot be reached: no answer in time"),
        ("connection timeout", "cannot be reached: no answer in time"),
        ("lock timeout", "another writer holds it for too long"),
        ("starting up", "the server is starting"),
        ("shutting down", "the server is shutting down"),
        ("terminating connection", "the server ended the connection"),
        ("closed the connection", "the server ended the connection"),
        ("too many", "the server has too many connections"),
        ("no space left", "the server's disk is full; nothing was stored, expected free space"),
        ("permission denied", "lacks a right: expected to own the database or its schema"),
        ("read-only transaction", "takes no writes: it is a stand-by, or was opened for reading"),
    ):
        if needle in lowered:
            return words
    return " ".join(message.split("\n")[0].split())
