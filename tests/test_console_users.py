"""Who may log in, what each may do, and that a change must come from our own page. Time is passed in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from string import Formatter

import httpx
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from typer.testing import CliRunner

from console.app import create_app
from console.command import app
from console.database import Database, sessions, tickets, users
from console.settings import ConsoleSettings
from console.users import FAILURES_PER_USER, SESSION_S, WINDOW_S, Role, Throttled, UserStore
from console.words import LANGUAGES, catalogue, negotiate
from pipeline.exceptions import ConfigError, StoreError
from tests.console_page import PASSWORD, console_app, serve

T = 1_790_000_000.0
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'console.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def store(database: Database) -> UserStore:
    made = UserStore(database, CHEAP)
    made.add("wang", Role.OPERATOR, "jinjiang/12", PASSWORD, T)
    return made


def test_a_password_opens_a_session_for_a_shift(store: UserStore) -> None:
    token = store.log_in("wang", PASSWORD, "10.0.0.9", T)
    assert token is not None
    user = store.session(token, T + SESSION_S - 1)
    assert user is not None
    assert (user.name, user.role, user.grid) == ("wang", Role.OPERATOR, "jinjiang/12")
    assert store.session(token, T + SESSION_S + 1) is None
    assert store.session(token + "x", T) is None


def test_neither_passwords_nor_session_tokens_lie_in_the_database(
    store: UserStore, database: Database
) -> None:
    token = store.log_in("wang", PASSWORD, "10.0.0.9", T)
    with database.read() as connection:
        tables = [connection.execute(sa.select(table)).all() for table in (users, sessions)]
    kept = str(tables)
    assert PASSWORD not in kept
    assert token is not None
    assert token not in kept
    assert "$argon2id$" in kept


def test_who_guesses_is_throttled_and_nobody_else_is(store: UserStore) -> None:
    for n in range(FAILURES_PER_USER):
        assert store.log_in("wang", f"wrong {n}", "10.0.0.66", T + n) is None
    with pytest.raises(Throttled) as refused:
        store.log_in("wang", PASSWORD, "10.0.0.66", T + 10)
    assert 0 < refused.value.retry_s <= WINDOW_S
    assert store.log_in("wang", PASSWORD, "10.0.0.9", T + 10) is not None, (
        "a guesser elsewhere locks nobody out"
    )
    assert store.log_in("wang", PASSWORD, "10.0.0.66", T + WINDOW_S + 10) is not None


def test_many_names_from_one_address_are_throttled_too(store: UserStore) -> None:
    for n in range(30):
        assert store.log_in(f"name{n}", "one password", "10.0.0.66", T + n) is None
    with pytest.raises(Throttled):
        store.log_in("wang", PASSWORD, "10.0.0.66", T + 31)


def test_disabling_and_a_new_password_end_the_sessions(store: UserStore) -> None:
    token = store.log_in("wang", PASSWORD, "a", T)
    assert token is not None
    store.set_password("wang", "another long one")
    assert store.session(token, T) is None
    token = store.log_in("wang", "another long one", "a", T)
    assert token is not None
    store.set_disabled("wang", True)
    assert store.session(token, T) is None
    assert store.log_in("wang", "another long one", "a", T) is None


def test_a_link_works_once(store: UserStore) -> None:
    link = store.link("wang", T)
    assert store.session(link, T) is None, "a link is no session"
    assert store.log_in_by_link(link, "a", T) is not None
    assert store.log_in_by_link(link, "a", T) is None


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "x" * 40, "a b"])
def test_a_name_must_be_able_to_be_a_topic(store: UserStore, name: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 32"):
        store.add(name, Role.VIEWER, "", PASSWORD, T)


def test_short_passwords_and_taken_names_are_refused(store: UserStore) -> None:
    with pytest.raises(ConfigError, match="10 to 256"):
        store.add("li", Role.VIEWER, "", "short", T)
    with pytest.raises(ConfigError, match="is there already"):
        store.add("wang", Role.VIEWER, "", PASSWORD, T)


def test_everything_is_in_the_audit_trail(store: UserStore) -> None:
    store.log_in("wang", "wrong", "10.0.0.9", T)
    token = store.log_in("wang", PASSWORD, "10.0.0.9", T + 1)
    assert token is not None
    store.log_out(token, "wang", "10.0.0.9", T + 2)
    kinds = [(entry.kind, entry.who, entry.address) for entry in store.audit_trail()]
    assert kinds == [("logout", "wang", "10.0.0.9"), ("login", "wang", "10.0.0.9"), ("login_failed", "wang", "10.0.0.9")]  # fmt: skip


def test_a_database_of_a_newer_console_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'c.sqlite'}"
    made = Database(url)
    with made.write() as connection:
        connection.execute(sa.text("UPDATE meta SET value = '99' WHERE key = 'schema'"))
    made.close()
    with pytest.raises(StoreError, match="schema 99"):
        Database(url)


# By command


def test_users_are_kept_by_command(tmp_path: Path) -> None:
    def run(*arguments: str, text: str = "") -> tuple[int, str]:
        given = ["--site", "demo", "--folder", str(tmp_path), "user", *arguments]
        done = CliRunner().invoke(app, given, input=text)
        return done.exit_code, done.output + str(done.exception or "")

    assert (
        run("add", "wang", "--role", "operator", "--grid", "jinjiang/12", text=PASSWORD + "\n")[0]
        == 0
    )
    code, said = run("add", "li", text="short\n")
    assert code != 0
    assert "10 to 256" in said
    assert run("disable", "wang")[0] == 0
    assert run("list") == (0, "wang\toperator\tjinjiang/12\tdisabled\n")
    assert run("disable", "wang", "--enable")[0] == 0
    assert run("password", "wang", text="another long one\n")[0] == 0
    database = Database(f"sqlite:///{tmp_path / 'console.sqlite'}")
    users = UserStore(database)
    assert users.log_in("wang", PASSWORD, "a", T) is None
    assert users.log_in("wang", "another long one", "a", T) is not None
    assert [entry.kind for entry in users.audit_trail()][-1] == "user.add"
    database.close()


@pytest.mark.parametrize("command", [(), ("add",), ("list",), ("disable",), ("password",)])
def test_help_asks_for_no_configuration(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["user", *command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


# Over HTTP


@pytest.fixture
def address(tmp_path: Path, database: Database) -> Iterator[str]:
    settings = ConsoleSettings("demo", tmp_path)
    with serve(console_app(settings, database)) as served:
        yield served


def client_of(address: str, user: str) -> tuple[httpx.Client, str]:
    """A logged-in client and its CSRF token."""
    client = httpx.Client(base_url=address, headers={"accept": "text/html"})
    token = csrf(client.get("/login").text)
    answer = client.post("/login", data={"name": user, "password": PASSWORD, "csrf": token})
    assert answer.status_code == 303
    return client, csrf(client.get("/").text)


def csrf(text: str) -> str:
    found = re.search(r'name="csrf" content="(\w+)"', text)
    assert found is not None
    return found[1]


def test_a_stranger_is_sent_to_the_log_in(address: str) -> None:
    with httpx.Client(base_url=address, headers={"accept": "text/html"}) as client:
        for path in ("/", "/tickets/x", "/audit", "/cockpit"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["location"][:12]) == (303, "/login?then=")
        assert client.get("/events", headers={"accept": "text/event-stream"}).status_code == 401
        assert client.get("/healthz").status_code == 200
        assert "gridwatch_console_readers" in client.get("/metrics").text


def test_no_change_without_the_pages_token(address: str) -> None:
    client, token = client_of(address, "operator")
    with closing(client):
        assert client.post("/tickets/x/acknowledge", data={"version": "1"}).status_code == 403
        assert (
            client.post(
                "/tickets/x/acknowledge", data={"version": "1", "csrf": "0" * 64}
            ).status_code
            == 403
        )
        assert client.post("/logout").status_code == 403
        assert client.get("/").status_code == 200, "still logged in"
        assert (
            client.post("/tickets/x/acknowledge", data={"version": "1", "csrf": token}).status_code
            == 404
        )
        assert client.post("/logout", headers={"x-csrf-token": token}).status_code == 303
        assert client.get("/").status_code == 303


def test_anothers_token_does_not_do(address: str) -> None:
    first, token = client_of(address, "operator")
    second, _ = client_of(address, "admin")
    with closing(first), closing(second):
        assert second.post("/logout", data={"csrf": token}).status_code == 403


def test_a_viewer_may_not_act_nor_an_operator_audit(address: str) -> None:
    viewer, token = client_of(address, "li")
    operator, _ = client_of(address, "operator")
    admin, _ = client_of(address, "admin")
    with closing(viewer), closing(operator), closing(admin):
        assert (
            viewer.post(
                "/tickets/x/dispose", data={"version": "1", "outcome": "test", "csrf": token}
            ).status_code
            == 403
        )
        assert operator.get("/audit").status_code == 403
        trail = admin.get("/audit")
        assert trail.status_code == 200
        assert "forbidden" in trail.text


def test_what_every_answer_says_to_the_browser(address: str) -> None:
    with httpx.Client(base_url=address, headers={"accept": "text/html"}) as client:
        answer = client.get("/login")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|\sstyle=", answer.text)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_cookies_are_secure_where_the_readers_come_over_https(
    tmp_path: Path, database: Database
) -> None:
    made = create_app(ConsoleSettings("demo", tmp_path, secure=True), database, hasher=CHEAP)
    with serve(made) as served, httpx.Client(base_url=served) as client:
        answer = client.get("/login")
    assert "Secure" in answer.headers["set-cookie"]
    assert "max-age=" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize(
    "then", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:x"]
)
def test_the_log_in_leads_nowhere_else(address: str, then: str) -> None:
    with httpx.Client(base_url=address) as client:
        token = csrf(client.get("/login").text)
        answer = client.post(
            "/login", data={"name": "admin", "password": PASSWORD, "csrf": token, "then": then}
        )
    assert answer.headers["location"] == "/"


# Words


def test_both_languages_say_everything() -> None:
    zh, en = catalogue("zh"), catalogue("en")
    assert zh.keys() == en.keys()
    for key, text in zh.items():
        assert text.strip(), key
        assert fields(text) == fields(en[key]), key


def test_every_word_that_a_template_asks_for_is_there() -> None:
    folder = Path(__file__).parent.parent / "console" / "templates"
    known = catalogue("zh")
    for file in folder.glob("*.html"):
        for key in re.findall(
            r"_\([\"']([a-z_.]+[a-z])[\"']\s*[,)]", file.read_text(encoding="utf-8")
        ):
            assert key in known, f"{file.name}: {key}"


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize(
    ("header", "language"),
    [("en-GB,en;q=0.9", "en"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("de,en;q=0.5,zh;q=0.7", "zh"), ("de", "zh"), ("", "zh"), ("en;q=nonsense", "zh")],
)  # fmt: skip
def test_the_browsers_language_is_asked(header: str, language: str) -> None:
    assert negotiate(header, "zh") == language
    assert language in LANGUAGES


def test_the_tickets_table_can_be_made_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'c.sqlite'}"
    first, second = Database(url), Database(url)
    assert first.identity == second.identity
    assert first.secret("csrf") == second.secret("csrf")
    with second.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tickets)) == 0
    first.close()
    second.close()
