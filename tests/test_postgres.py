"""The store on PostgreSQL: a server that goes away loses nothing and doubles nothing, and errors are one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from alerts import postgres as driver
from alerts.store import Batch, Event, Message, Store
from pipeline.exceptions import StoreError
from tests.broker import free_port, wait_for
from tests.postgres import PASSWORD, Cluster, postgres
from tests.test_store import T0, make_batch, make_ticket

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def mortal() -> Iterator[Cluster]:
    """A server of this file's own, to be stopped."""
    with postgres() as running:
        yield running


def test_writes_and_reads_wait_for_a_server_that_was_killed(mortal: Cluster) -> None:
    with capture_logs() as logs, Store(mortal.url(mortal.database())) as store:
        store.commit(make_batch(make_ticket(0))).result()
        mortal.stop("immediate")
        futures = [store.commit(make_batch(make_ticket(n))) for n in range(1, 30)]
        read: list[int] = []
        reader = threading.Thread(target=lambda: read.append(len(store.tickets())))
        reader.start()
        wait_for(lambda: any(entry["event"] == "database away, retrying" for entry in logs))
        assert not any(future.done() for future in futures)
        mortal.start()
        for future in futures:
            future.result(30)
        reader.join(30)
        assert read[0] >= 1
        assert len(store.tickets()) == 30
        assert len({row.message.topic for row in store.pending()}) == store.pending_count() == 30
    told = [entry["event"] for entry in logs if "database" in entry["event"]]
    assert told.count("database away, retrying") <= 2  # reader and writer may notice at once
    assert "database is back" in told


def test_a_commit_whose_answer_was_lost_is_not_repeated(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: the server has committed, and the connection breaks before it can say so."""
    name = cluster.database()
    with Store(cluster.url(name)) as store:
        lost: list[bool] = []
        commit = sa.engine.base.RootTransaction.commit

        def lose(self: sa.engine.base.RootTransaction) -> None:
            commit(self)
            if self.connection.get_execution_options().get("writes") and not lost:
                lost.append(True)
                cause = __import__("psycopg").OperationalError("the connection is lost")
                raise sa.exc.OperationalError("COMMIT", None, cause, connection_invalidated=True)

        monkeypatch.setattr(sa.engine.base.RootTransaction, "commit", lose)
        batch = Batch(T0, messages=[Message("a", b"once")])
        store.commit(batch).result(20)
        assert lost
        assert [row.message.payload for row in store.pending()] == [b"once"]


def test_a_commit_that_never_arrived_is_repeated(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = cluster.database()
    with Store(cluster.url(name)) as store:
        killed: list[bool] = []
        commit = sa.engine.base.RootTransaction.commit

        def kill(self: sa.engine.base.RootTransaction) -> None:
            if self.connection.get_execution_options().get("writes") and not killed:
                killed.append(True)
                cluster.drop_connections(name)
            commit(self)

        monkeypatch.setattr(sa.engine.base.RootTransaction, "commit", kill)
        store.commit(Batch(T0, messages=[Message("a", b"once")])).result(20)
        assert killed
        assert [row.message.payload for row in store.pending()] == [b"once"]


def test_sessions_that_are_ended_again_and_again_lose_and_double_nothing(cluster: Cluster) -> None:
    name = cluster.database()
    with Store(cluster.url(name)) as store:
        over = threading.Event()

        def disturb() -> None:
            while not over.wait(0.4):  # longer than a group of a hundred batches takes
                cluster.drop_connections(name)

        nuisance = threading.Thread(target=disturb)
        nuisance.start()
        try:
            for start in range(0, 300, 20):
                futures = [store.commit(make_batch(make_ticket(start + n))) for n in range(20)]
                for future in futures:
                    future.result(60)
        finally:
            over.set()
            nuisance.join()
        assert len(store.tickets()) == store.pending_count() == 300


def test_two_writers_never_overtake_each_other_in_the_outbox(cluster: Cluster) -> None:
    """A row that became visible behind one with a higher number would be overlooked by a publisher."""
    url = cluster.url(cluster.database())
    with Store(url) as one, Store(url) as two, Store(url, read_only=True) as reader:
        seen: list[int] = []
        done = threading.Event()

        def follow() -> None:
            while not done.is_set() or reader.pending(1000, seen[-1] if seen else 0):
                seen.extend(row.seq for row in reader.pending(1000, seen[-1] if seen else 0))

        follower = threading.Thread(target=follow)
        follower.start()
        futures = [
            store.commit(Batch(T0, messages=[Message("a", b"")] * 3))
            for _ in range(60)
            for store in (one, two)
        ]
        for future in futures:
            future.result(30)
        done.set()
        follower.join(30)
        assert seen == sorted(seen)
        assert len(seen) == 360


def test_closing_does_not_wait_for_a_server_that_is_away(mortal: Cluster) -> None:
    store = Store(mortal.url(mortal.database()))
    mortal.stop("immediate")
    try:
        waiting = store.commit(make_batch(make_ticket()))
        closer = threading.Thread(target=store.close)
        closer.start()
        closer.join(15)
        assert not closer.is_alive()
        with pytest.raises(StoreError, match=r"cannot be reached|ended the connection|is away"):
            waiting.result(0)
    finally:
        mortal.start()


def test_at_the_end_a_server_that_is_back_is_noticed(mortal: Cluster) -> None:
    """The writer may be in the middle of a pause when the program ends: what waits must not be lost for that."""
    url = mortal.url(mortal.database())
    with capture_logs() as logs, Store(url) as store:
        mortal.stop("immediate")
        waiting = store.commit(make_batch(make_ticket()))
        wait_for(lambda: any(entry["event"] == "database away, retrying" for entry in logs))
        time.sleep(3)  # the pauses are seconds long by now
        mortal.start()
        store.lose_patience()
        waiting.result(15)
        assert len(store.tickets()) == 1


def test_a_reader_says_at_once_that_the_server_is_away(mortal: Cluster) -> None:
    url = mortal.url(mortal.database())
    Store(url).close()
    with Store(url, read_only=True) as reader:
        mortal.stop("immediate")
        try:
            with pytest.raises(StoreError, match=r"cannot be reached|ended the connection"):
                reader.tickets()
        finally:
            mortal.start()


def test_what_is_wrong_with_the_address_is_one_line_without_the_password(cluster: Cluster) -> None:
    name = cluster.database()
    wrong = {
        cluster.url(name, "sEcReT"): "refuses this user and password",
        f"postgresql://grid:sEcReT@127.0.0.1:{free_port()}/x": "nobody listens there",
        "postgresql://grid:sEcReT@no.such.host.invalid/x": "name is unknown",
        cluster.url("none"): 'database "none" does not exist',
        f"postgresql://grid@127.0.0.1:{cluster.port}/{name}?password=sEcReT": "refuses this user",
        "postgresql+psycopg2://grid:sEcReT@h/x": r"expected postgresql\+psycopg",
    }
    for url, words in wrong.items():
        with pytest.raises(StoreError, match=words) as caught:
            Store(url)
        assert "\n" not in str(caught.value)
        assert "sEcReT" not in str(caught.value)
        assert PASSWORD not in str(caught.value)


def test_another_programs_tables_are_left_alone(cluster: Cluster) -> None:
    name = cluster.database()
    cluster.execute("CREATE TABLE tickets (theirs INTEGER)", name)
    with pytest.raises(StoreError, match="another program has tickets here"):
        Store(cluster.url(name))
    assert cluster.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name) == [
        ("tickets",)
    ]


def test_one_engine_claims_a_database(cluster: Cluster) -> None:
    url = cluster.url(cluster.database())
    with Store(url) as store:
        store.claim("h1")
        store.claim("h1")
        with pytest.raises(StoreError, match="tickets of host 'h1', expected those of 'h2'"):
            store.claim("h2")


def test_the_audit_trail_cannot_be_emptied(cluster: Cluster) -> None:
    name = cluster.database()
    with Store(cluster.url(name)) as store:
        store.commit(make_batch(make_ticket())).result()
        with pytest.raises(Exception, match="never rewritten"):
            cluster.execute("TRUNCATE events", name)
        assert len(store.events(make_ticket().id)) == 1


def test_a_command_may_say_what_a_text_column_cannot_hold(cluster: Cluster) -> None:
    with Store(cluster.url(cluster.database())) as store:
        batch = make_batch(make_ticket())
        batch.events.append(Event(make_ticket().id, 1, "note", "w", T0, "a\0b", {"note": "c\0d"}))
        store.commit(batch).result()
        last = store.events(make_ticket().id)[-1]
        assert (last.source, last.document) == ("a\ufffdb", {"note": "c\0d"})


def test_a_server_that_confirms_too_early_is_told_not_to(cluster: Cluster) -> None:
    name = cluster.database()
    cluster.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    with Store(cluster.url(name)) as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_only_a_lost_server_is_waited_for() -> None:
    psycopg = pytest.importorskip("psycopg")

    def error(cause: Exception) -> sa.exc.DBAPIError:
        return sa.exc.DBAPIError("SELECT", None, cause)

    assert driver.is_away(error(psycopg.OperationalError("refused")))
    assert driver.is_away(error(psycopg.errors.AdminShutdown()))
    assert not driver.is_away(error(psycopg.errors.UniqueViolation()))
    assert not driver.is_away(error(psycopg.errors.DiskFull()))
    assert not driver.is_away(ValueError())
    assert not driver.is_away(None)
