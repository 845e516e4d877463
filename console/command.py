"""`gridwatch console`: serve the operators' page, and keep its users."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import platformdirs
import typer
import uvicorn
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from alerts.connection import BrokerSettings
from console.app import create_app
from console.database import Database
from console.mirror import Mirror
from console.settings import ConsoleSettings
from console.users import Role, UserStore
from gridwatch.cli_options import WithParentOption
from gridwatch.config import load_config
from gridwatch.logs import configure_logging
from gridwatch.parent import end_with_parent
from gridwatch.watch import feed_settings
from pipeline.exceptions import ConfigError

__all__ = ["app"]

PORT = 8080
TOKEN_VARIABLE = "GRIDWATCH_CONSOLE_TOKEN"  # noqa: S105 - its name
DEMO_USER = "demo"

app = typer.Typer(
    name="console",
    help="The operators' page: live feed, tickets, cockpit, camera wall, zones.",
    pretty_exceptions_enable=False,
    add_completion=False,
    invoke_without_command=True,
)
user_app = typer.Typer(help="Who may log in.", no_args_is_help=True)
app.add_typer(user_app, name="user")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Take site, broker and grids from this file.")
]
BrokerOption = Annotated[
    str | None, typer.Option("--broker", "-b", metavar="HOST[:PORT]", help="The broker.")
]
SiteOption = Annotated[
    str | None, typer.Option("--site", help="The site's id; '+' for every site of the broker.")
]
BrokerUserOption = Annotated[
    str | None,
    typer.Option("--broker-user", help="Broker user; GRIDWATCH_PASSWORD holds the password."),
]
DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="GRIDWATCH_CONSOLE_DATABASE",
        help="SQLAlchemy URL, e.g. postgresql://...; SQLite in the folder by default.",
    ),
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Of the console's own state.", show_default=False)
]


@app.callback()
def serve(
    context: typer.Context,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    site: SiteOption = None,
    broker_user: BrokerUserOption = None,
    database: DatabaseOption = "",
    folder: FolderOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = PORT,
    share: Annotated[
        str,
        typer.Option(
            metavar="GROUP",
            help="Share the broker's messages with the other consoles of this group (and their --database).",
        ),
    ] = "",
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="Believe the X-Forwarded headers of a local proxy."),
    ] = False,
    https: Annotated[
        bool, typer.Option("--https", help="Readers come over HTTPS alone: cookies say so.")
    ] = False,
    with_parent: WithParentOption = False,
) -> None:
    """Serve the page until Ctrl-C; with `user`, keep its users."""
    # Not read before a command of `user` runs: its --help asks for no configuration.
    read = partial(_settings, config, broker, site, broker_user, database, folder, https)
    context.obj = read
    if context.invoked_subcommand is not None:
        return
    configure_logging("auto", "INFO")
    if with_parent:
        end_with_parent()
    _serve(replace(read(), share=share), host, port, behind_proxy=behind_proxy)


def _serve(settings: ConsoleSettings, host: str, port: int, *, behind_proxy: bool) -> None:
    store = Database(settings.database_url)
    registry = CollectorRegistry()
    mirror = Mirror(settings, store, registry=registry)
    web = create_app(settings, store, mirror, registry=registry)
    listening = _listen(host, port)
    shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound
    address = f"http://{shown}:{listening.getsockname()[1]}"
    _bootstrap(web.state.console.users, address)
    server = uvicorn.Server(
        uvicorn.Config(
            web,
            log_level="warning",
            access_log=False,
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    mirror.start()
    try:
        server.run(sockets=[listening])
    finally:
        mirror.close()
        store.close()


def _bootstrap(users: UserStore, address: str) -> None:
    """A way in: the demo's own token, or the first administrator's link."""
    token = os.environ.pop(TOKEN_VARIABLE, "")
    known = {user.name for user in users.all()}
    if token:
        if DEMO_USER not in known:
            users.add(DEMO_USER, Role.ADMIN, "", secrets.token_urlsafe(24), time.time())
        users.register_link(DEMO_USER, token, time.time())
    elif not known:
        users.add("admin", Role.ADMIN, "", secrets.token_urlsafe(24), time.time())
        link = users.link("admin", time.time())
        sys.stdout.write(
            f"first start: open {address}/login/{link} once, within a day, to log in as admin;\n"
            "then give admin a password: gridwatch console (the same options) user password admin\n"
        )
    sys.stdout.write(f"console: {address}\n")
    sys.stdout.flush()


@user_app.command("add")
def user_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Commands are sent in this name.")],
    role: Annotated[Role, typer.Option(help="What the user may do.")] = Role.OPERATOR,
    grid: Annotated[str, typer.Option(help="Only tickets of this grid and below.")] = "",
) -> None:
    """Make a user; the password is asked for, or read from the standard input."""
    users = _users(context)
    users.add(name, role, grid, _password(), time.time())
    users.audit(time.time(), _who(), "user.add", name, {"role": role.value, "grid": grid}, "cli")
    typer.echo(f"user {name}: {role.value}{f' of {grid}' if grid else ''}")


@user_app.command("list")
def user_list(context: typer.Context) -> None:
    """Every user with role and grid."""
    for user in _users(context).all():
        typer.echo(
            f"{user.name}\t{user.role.value}\t{user.grid or '-'}\t{'disabled' if user.disabled else ''}"
        )


@user_app.command("disable")
def user_disable(
    context: typer.Context,
    name: str,
    again: Annotated[bool, typer.Option("--enable", help="Let the user in again.")] = False,
) -> None:
    """Let a user in no more; ends the user's sessions."""
    users = _users(context)
    users.set_disabled(name, not again)
    users.audit(time.time(), _who(), "user.enable" if again else "user.disable", name, {}, "cli")


@user_app.command("password")
def user_password(context: typer.Context, name: str) -> None:
    """Change a password; ends the user's sessions."""
    users = _users(context)
    users.set_password(name, _password())
    users.audit(time.time(), _who(), "user.password", name, {}, "cli")


def _users(context: typer.Context) -> UserStore:
    read: Callable[[], ConsoleSettings] = context.obj
    return UserStore(Database(read().database_url))


def _who() -> str:
    return os.environ.get("USER", "cli")


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _settings(
    config: Path | None,
    broker: str | None,
    site: str | None,
    broker_user: str | None,
    database: str,
    folder: Path | None,
    https: bool,
) -> ConsoleSettings:
    loaded = load_config(config) if config is not None else None
    if loaded is None and site is None:
        raise ConfigError("console: expected --config cameras.yaml, or --site with --broker")
    connection = BrokerSettings()
    if loaded is not None:
        # The host's own client id would throw the host out.
        connection = loaded.broker.model_copy(update={"client_id": None})
        if broker_user is not None:  # the page's own account, not the host's
            password = os.environ.get("GRIDWATCH_PASSWORD", "")
            own = {"username": broker_user, "password": SecretStr(password)}
            connection = connection.model_copy(update=own)
    if broker is not None:
        connection = feed_settings(None, broker, site or "any", broker_user).broker
    name = site or (loaded.site.id if loaded else "")
    base = folder or Path(platformdirs.user_state_dir("gridwatch", appauthor=False)) / (
        f"console-{'all' if name == '+' else name}"
    )
    settings = ConsoleSettings(
        name,
        base,
        broker=connection,
        database=database,
        timezone=ZoneInfo(os.environ.get("TZ") or "Asia/Shanghai"),
        config_file=config,
        secure=True if https else None,
    )
    return settings.showing(loaded) if loaded is not None else settings


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"console: cannot listen on {host}:{port}: {error.strerror}") from error
    listening.listen(128)
    return listening
