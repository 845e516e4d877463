"""`gridwatch demo`: the whole product on one machine, offline, with simulated clips for cameras.

Nothing here makes a ticket: the broker is embedded and the cameras are files, all else is what runs on a site.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path

from rich.console import Console

from alerts.connection import BrokerSettings
from gridwatch.config import Config, load_config
from gridwatch.embedded_broker import EmbeddedBroker, free_port
from gridwatch.parent import WITH_PARENT
from gridwatch.watch import FeedSettings, FeedView
from pipeline.exceptions import ConfigError

__all__ = ["run_demo", "shipped_configuration"]

SETTLE_S = 1.5  # the last messages are on their way when the daemon has ended
STOP_S = 6.0
CONSOLE_START_S = 60.0  # on a busy box its imports take a while
CONSOLE_NEEDS = ("argon2", "fastapi", "jinja2", "python_multipart", "uvicorn")

_TEXT = {
    "zh": {
        "start": "内置 MQTT 代理 127.0.0.1:{port} · {cameras} 路模拟摄像机 · 日志 {log}",
        "hint": "另开终端可执行: gridwatch tickets list -b 127.0.0.1:{port} --site {site}",
        "console": "值守台: {url} （链接只能使用一次）",
        "no_console": "未安装值守台: pip install 'gridwatch[console]'",
        "end": "共 {count} 张工单: {list}",
        "missing": "没有工单的场景: {list}",
        "kept": "工单库与证据: {folder}",
    },
    "en": {
        "start": "embedded MQTT broker 127.0.0.1:{port} · {cameras} simulated cameras · log {log}",
        "hint": "in another terminal: gridwatch tickets list -b 127.0.0.1:{port} --site {site}",
        "console": "operators' page: {url} (the link works once)",
        "no_console": "the operators' page is not installed: pip install 'gridwatch[console]'",
        "end": "{count} tickets: {list}",
        "missing": "no ticket of: {list}",
        "kept": "tickets and evidence: {folder}",
    },
}


def shipped_configuration() -> Path:
    """cameras.yaml of the installed package, or of the clone that gridwatch is run from."""
    inside = Path(str(resources.files("gridwatch"))) / "cameras.yaml"
    beside = inside.parent.parent / "cameras.yaml"
    for file in (inside, beside):
        if file.is_file():
            return file
    raise ConfigError(f"{inside}: the demo's configuration is not installed")


def run_demo(file: Path | None, *, once: bool, language: str | None, port: int) -> int:
    """Run broker, daemon and feed until the clips have ended (``once``, or no terminal) or Ctrl-C.

    Returns:
        0, or 1 where a scenario of the configuration raised no ticket although all clips were played.
    """
    once = once or not sys.stdout.isatty()
    folder = Path(tempfile.mkdtemp(prefix="gridwatch-demo-"))
    if file is None:  # a copy: who draws zones in the demo must not change what is installed
        file = folder / "cameras.yaml"
        shutil.copyfile(shipped_configuration(), file)
    config = load_config(file)
    words = _TEXT["en" if (language or config.site.language) == "en" else "zh"]
    log = folder / "gridwatch.log"
    console = Console(highlight=False, soft_wrap=True)
    with EmbeddedBroker(port) as broker:
        console.print(
            words["start"].format(port=broker.port, cameras=len(config.cameras), log=log),
            style="bold",
        )
        console.print(words["hint"].format(port=broker.port, site=config.site.id), style="dim")
        settings = FeedSettings(
            config.site.id,
            BrokerSettings(host="127.0.0.1", port=broker.port, protocol="3.1.1"),
            config.timezone,
            config.site.language,
        )
        view = FeedView(settings, language, console)
        with view, log.open("w") as output:
            daemon = subprocess.Popen(
                _command(file, broker.port, folder, once=once), stdin=subprocess.PIPE, stderr=output
            )
            page = _start_console(file, broker.port, folder, console, words)
            try:
                _follow(view, daemon)
            except KeyboardInterrupt:
                pass
            finally:
                _end(daemon)
                if page is not None:
                    _end(page)
            view.follow(SETTLE_S)
    _sum_up(console, words, config, view, folder)
    if daemon.returncode not in (0, None):
        console.print(log.read_text(encoding="utf-8").strip()[-2000:], markup=False, style="red")
        return 1
    wanted = {name for camera in config.cameras if camera.enabled for name in camera.scenarios}
    return 1 if once and wanted - {ticket.scenario for ticket in view.seen.values()} else 0


def _command(file: Path, port: int, folder: Path, *, once: bool) -> list[str]:
    command = [sys.executable, "-m", "gridwatch.cli", "run", str(file), WITH_PARENT]
    command += ["--once"] if once else ["--set", "defaults.stream.loop=true"]
    evidence = f"127.0.0.1:{free_port()}"
    overrides = [
        "broker.host=127.0.0.1",
        f"broker.port={port}",
        f"evidence.listen={evidence}",
        f"evidence.url_base=http://{evidence}",
        f"storage.folder={folder}",
        "runtime.log_format=json",
    ]
    return [*command, *(part for override in overrides for part in ("--set", override))]


def _start_console(
    file: Path, port: int, folder: Path, console: Console, words: dict[str, str]
) -> subprocess.Popen[bytes] | None:
    """The operators' page beside the demo, where its extra is installed; whoever has the link is logged in."""
    if any(importlib.util.find_spec(name) is None for name in CONSOLE_NEEDS):
        console.print(words["no_console"], style="dim", markup=False)
        return None
    token = secrets.token_urlsafe(24)
    web_port = free_port()
    # Its start must not take the cores from the engine's, which begins at the same moment.
    command = ["nice", "-n", "10", sys.executable, "-m", "gridwatch.cli", "console"]
    command += ["--config", str(file), WITH_PARENT]
    command += ["--broker", f"127.0.0.1:{port}", "--folder", str(folder / "console")]
    command += ["--port", str(web_port)]
    with (folder / "console.log").open("w") as output:
        page = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # By the environment and not as an argument, which every process may read.
            env={**os.environ, "GRIDWATCH_CONSOLE_TOKEN": token},
        )
    line = words["console"].format(url=f"http://127.0.0.1:{web_port}/login/{token}")

    def tell() -> None:
        """Name the address once it answers: a link that is refused looks broken."""
        deadline = time.monotonic() + CONSOLE_START_S
        while page.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", web_port), 1):
                console.print(line, style="bold cyan")
                return
            time.sleep(0.1)

    threading.Thread(target=tell, name="console-address", daemon=True).start()
    return page


def _follow(view: FeedView, daemon: subprocess.Popen[bytes]) -> None:
    while daemon.poll() is None:
        view.follow(0.2)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let go of a child, which is also what happens when we are killed."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _sum_up(
    console: Console, words: dict[str, str], config: Config, view: FeedView, folder: Path
) -> None:
    counts: dict[str, int] = {}
    for ticket in view.seen.values():
        counts[ticket.scenario] = counts.get(ticket.scenario, 0) + 1
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "–"
    console.print(words["end"].format(count=len(view.seen), list=listed), style="bold green")
    wanted = {name for camera in config.cameras if camera.enabled for name in camera.scenarios}
    if wanted - counts.keys():
        console.print(
            words["missing"].format(list=", ".join(sorted(wanted - counts.keys()))),
            style="bold red",
        )
    console.print(words["kept"].format(folder=folder), style="dim")
