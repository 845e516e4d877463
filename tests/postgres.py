"""A real PostgreSQL for tests: a private cluster on a free port, started, stopped and killed at will."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.broker import free_port

__all__ = ["PASSWORD", "Cluster", "postgres"]

PASSWORD = "gr1d:p@ss/word"
_FOLDERS = ":".join(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin")))
INITDB = shutil.which("initdb") or shutil.which("initdb", path=_FOLDERS)


def _as_user() -> list[str]:
    """PostgreSQL refuses to run as root: it is run as somebody who is not."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return ["runuser", "-u", name, "--"]
    pytest.skip("POSTGRESQL ABSENT: neither user postgres nor nobody to run it as")


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        port: On 127.0.0.1.
        folder: Of its data.
    """

    port: int
    folder: Path
    bin: Path
    prefix: list[str]

    def url(self, database: str, password: str = PASSWORD) -> str:
        """The URL of one of its databases, as it stands in cameras.yaml."""
        return f"postgresql://grid:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The name of a new, empty database."""
        name = f"d{uuid.uuid4().hex}"
        self.execute(f'CREATE DATABASE "{name}"')
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the owner."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="grid",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def drop_connections(self, database: str) -> None:
        """End all sessions of a database, as a restart or a firewall does."""
        others = f"datname = '{database}' AND pid <> pg_backend_pid()"
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608 - ours

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        # Without fsync: a killed server loses nothing by that, only a machine that loses its power.
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._ctl("start", "-w", "-t", "60", "-o", options, "-l", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """Stop it; ``immediate`` is as good as a kill."""
        self._ctl("stop", "-w", "-m", mode)

    def _ctl(self, *arguments: str) -> None:
        done = subprocess.run(
            [*self.prefix, str(self.bin / "pg_ctl"), "-D", str(self.folder / "data"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            cwd="/",
        )
        assert done.returncode == 0, done.stdout


@contextmanager
def postgres() -> Iterator[Cluster]:
    """A cluster with the superuser ``grid``; skips loudly where PostgreSQL is not installed."""
    pytest.importorskip("psycopg", reason="PSYCOPG ABSENT: the extra postgres is not installed")
    if INITDB is None:
        pytest.skip(
            "POSTGRESQL ABSENT: the store is tested on SQLite alone (apt-get install postgresql)"
        )
    prefix = _as_user()
    # Not under pytest's own folder, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="gridwatch-pg-"))
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if prefix:
            shutil.chown(folder, prefix[2])
            shutil.chown(secret, prefix[2])
        subprocess.run(
            [
                *prefix,
                INITDB,
                *("-D", str(folder / "data"), "-U", "grid", "-A", "scram-sha-256"),
                *(f"--pwfile={secret}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
            cwd="/",
        )
        cluster = Cluster(free_port(), folder, Path(INITDB).resolve().parent, prefix)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
