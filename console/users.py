"""Users, their sessions, and the audit trail of what they did on the page.

Passwords are kept as argon2id hashes, session tokens as SHA-256 of 256 random bits. Time is passed in.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from console.database import Database, audit, sessions, upsert, users
from pipeline.exceptions import ConfigError

__all__ = ["AuditEntry", "Role", "Throttled", "User", "UserStore", "password_problem"]

SESSION_S = 12 * 3600.0  # a shift with its hand-over
LINK_S = 24 * 3600.0
MIN_PASSWORD = 10  # NIST SP 800-63B asks for 8 at least; who guesses is throttled as well
MAX_PASSWORD = 256  # argon2 takes its time over every byte

WINDOW_S = 300.0  # failures are counted over the last five minutes,
FAILURES_PER_USER = 5  # of one name from one address: nobody can lock another out from elsewhere,
FAILURES_PER_ADDRESS = 30  # and of one address: many names tried with one password

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,31}")
# At most two hashes at a time: each takes 64 MiB and a core for a moment.
_HASHING = threading.BoundedSemaphore(2)


class Role(StrEnum):
    """What a user may do; each may do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Role).index(self)


@dataclass(frozen=True, slots=True)
class User:
    """Who is at the page.

    Attributes:
        name: Also the name in which commands are sent.
        role: What may be done.
        grid: The subtree that may be seen; empty for all of it.
        disabled: Cannot log in.
        created_t: Seconds since the epoch.
    """

    name: str
    role: Role
    grid: str = ""
    disabled: bool = False
    created_t: float = 0.0

    def sees(self, grid: str) -> bool:
        """Whether this grid lies in the user's subtree."""
        return not self.grid or grid == self.grid or grid.startswith(f"{self.grid}/")

    def may(self, role: Role) -> bool:
        """Whether the user's role is at least this one."""
        return self.role.rank >= role.rank


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What somebody did, when, from where."""

    t: float
    who: str
    kind: str
    subject: str
    address: str
    detail: dict[str, object]


class Throttled(Exception):  # noqa: N818 - no error of ours: the caller answers 429
    """Too many failed log-ins.

    Attributes:
        retry_s: Seconds until the next try is looked at.
    """

    def __init__(self, retry_s: float) -> None:
        super().__init__(f"too many failed log-ins; try again in {retry_s:.0f} s")
        self.retry_s = retry_s


def password_problem(password: str) -> str | None:
    """The key of what is wrong with a password; None if nothing is."""
    if len(password) < MIN_PASSWORD:
        return "user.password_short"
    if len(password) > MAX_PASSWORD:
        return "user.password_long"
    return None


class UserStore:
    """Users, sessions and audit in a console's database.

    Args:
        database: Of the console.
        hasher: Of passwords; argon2id with the library's parameters (RFC 9106, low memory) by default.
    """

    def __init__(self, database: Database, hasher: PasswordHasher | None = None) -> None:
        self._database = database
        self._hasher = hasher or PasswordHasher()
        # Verified against when there is no such user, so that names cannot be found by the time an answer takes.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    # Users

    def add(self, name: str, role: Role, grid: str, password: str, t: float) -> User:
        """Make a user.

        Raises:
            ConfigError: if the name is taken or malformed, or the password too short.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"user {name!r}: expected 1 to 32 of A-Z a-z 0-9 _ . @ - (it becomes part of an MQTT topic)"
            )
        row = {
            "role": role.value,
            "grid": grid.strip("/"),
            "password": self._hash(name, password),
            "disabled": False,
            "created_t": t,
        }
        with self._database.write() as connection:
            if not upsert(connection, users, {"name": name}, row, replace=False):
                raise ConfigError(f"user {name!r}: is there already")
        return User(name, role, grid.strip("/"), created_t=t)

    def set_password(self, name: str, password: str) -> None:
        """Change a password and end the user's sessions.

        Raises:
            ConfigError: if there is no such user, or the password is too short.
        """
        self._change(name, password=self._hash(name, password))

    def set_disabled(self, name: str, disabled: bool) -> None:
        """Let a user log in no more, or again; ends the sessions.

        Raises:
            ConfigError: if there is no such user.
        """
        self._change(name, disabled=disabled)

    def all(self) -> list[User]:
        """Every user by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(users).order_by(users.c.name)).all()
        return [_user(row) for row in rows]

    def _change(self, name: str, **values: object) -> None:
        with self._database.write() as connection:
            done = connection.execute(sa.update(users).where(users.c.name == name).values(values))
            if done.rowcount == 0:
                raise ConfigError(f"user {name!r}: there is none of that name")
            connection.execute(sa.delete(sessions).where(sessions.c.who == name))

    def _hash(self, name: str, password: str) -> str:
        if password_problem(password) is not None:
            raise ConfigError(
                f"user {name!r}: expected a password of {MIN_PASSWORD} to {MAX_PASSWORD} characters, "
                f"found {len(password)}"
            )
        with _HASHING:
            return self._hasher.hash(password)

    # Sessions

    def log_in(self, name: str, password: str, address: str, t: float) -> str | None:
        """Check a password and begin a session.

        Returns:
            The session's token for the cookie; None if name or password is wrong.

        Raises:
            Throttled: after too many failures, whether or not this password is right.
        """
        name, address = name[:64], address[:64]
        self._check_throttle(name, address, t)
        with self._database.read() as connection:
            row = connection.execute(sa.select(users).where(users.c.name == name)).first()
        known = row is not None and not row.disabled
        try:
            with _HASHING:
                self._hasher.verify(
                    row.password if row is not None and known else self._nobody,
                    password[: MAX_PASSWORD + 1],
                )
        except (VerificationError, InvalidHashError):
            known = False
        if row is None or not known:
            self.audit(t, name, "login_failed", name, {}, address)
            return None
        if self._hasher.check_needs_rehash(row.password):
            with self._database.write() as connection:
                connection.execute(
                    sa.update(users)
                    .where(users.c.name == name)
                    .values(password=self._hash(name, password))
                )
        self.audit(t, name, "login", name, {}, address)
        return self._begin("session", name, address, t, SESSION_S)

    def link(self, name: str, t: float) -> str:
        """The token of a link that logs a user in once."""
        return self._begin("link", name, "", t, LINK_S)

    def register_link(self, name: str, token: str, t: float) -> None:
        """Accept a token that somebody else made (the demo) as a link that logs a user in once."""
        self._begin("link", name, "", t, LINK_S, token)

    def log_in_by_link(self, token: str, address: str, t: float) -> str | None:
        """Use up a link and begin a session; None if the link is none or was used."""
        c = sessions.c
        with self._database.write() as connection:
            row = connection.execute(
                sa.select(c.who).where(c.token == _digest(token), c.kind == "link", c.expires_t > t)
            ).first()
            used = connection.execute(
                sa.delete(sessions).where(c.token == _digest(token), c.kind == "link")
            )
        if row is None or used.rowcount != 1:
            self.audit(t, "", "link_failed", "", {}, address)
            return None
        self.audit(t, row.who, "login", row.who, {"by": "link"}, address)
        return self._begin("session", row.who, address, t, SESSION_S)

    def session(self, token: str, t: float) -> User | None:
        """Whose session it is at `t`; None if it is nobody's (any more)."""
        query = (
            sa.select(users)
            .join(sessions, sessions.c.who == users.c.name)
            .where(
                sessions.c.token == _digest(token),
                sessions.c.kind == "session",
                sessions.c.expires_t > t,
                users.c.disabled.is_(False),
            )
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _user(row)

    def log_out(self, token: str, who: str, address: str, t: float) -> None:
        """End a session."""
        with self._database.write() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.token == _digest(token)))
        self.audit(t, who, "logout", who, {}, address)

    def _begin(
        self, kind: str, who: str, address: str, t: float, life_s: float, token: str | None = None
    ) -> str:
        token = token or secrets.token_urlsafe(32)
        row = {
            "kind": kind,
            "who": who,
            "created_t": t,
            "expires_t": t + life_s,
            "address": address[:64],
        }
        with self._database.write() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.expires_t <= t))
            upsert(connection, sessions, {"token": _digest(token)}, row)
        return token

    def _check_throttle(self, name: str, address: str, t: float) -> None:
        c = audit.c
        recent = sa.select(c.who, c.t.label("failed_t")).where(
            c.kind == "login_failed", c.t > t - WINDOW_S, c.t <= t, c.address == address
        )
        with self._database.read() as connection:
            rows = connection.execute(recent.order_by(c.t)).all()
        own = [row.failed_t for row in rows if row.who == name]
        for times, limit in (
            (own, FAILURES_PER_USER),
            ([row.failed_t for row in rows], FAILURES_PER_ADDRESS),
        ):
            if len(times) >= limit:
                raise Throttled(max(1.0, times[-limit] + WINDOW_S - t))

    # Audit

    def audit(
        self,
        t: float,
        who: str,
        kind: str,
        subject: str,
        detail: Mapping[str, object],
        address: str,
    ) -> None:
        """Keep what somebody did; such rows are never changed."""
        row = {
            "t": t,
            "who": who[:64],
            "kind": kind,
            "subject": subject[:128],
            "address": address[:64],
            "detail": json.dumps(detail, ensure_ascii=False),
        }
        with self._database.write() as connection:
            connection.execute(sa.insert(audit).values(row))

    def audit_trail(self, limit: int = 200, who: str = "") -> list[AuditEntry]:
        """What was done, the newest first."""
        query = (
            sa.select(*(c for c in audit.c if c.name != "seq"))
            .order_by(audit.c.seq.desc())
            .limit(limit)
        )
        if who:
            query = query.where(audit.c.who == who)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [AuditEntry(**{**row, "detail": json.loads(row["detail"])}) for row in rows]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _user(row: sa.Row[tuple[object, ...]]) -> User:
    found = row._mapping  # noqa: SLF001 - the documented way to a row's columns by name
    return User(
        found["name"], Role(found["role"]), found["grid"], found["disabled"], found["created_t"]
    )
