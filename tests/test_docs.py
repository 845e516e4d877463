"""What the documentation says is so: its commands exist, its configurations load, its example runs, its links lead somewhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shlex
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import typer.main
import yaml

from alerts.mqtt import CommandReceiver
from alerts.rules import ChangeKind, RuleBook
from alerts.store import Store
from alerts.tickets import Action, Command, Outcome, Reply, TicketCondition, TicketState
from alerts.topics import Topics
from gridwatch.cli import app
from gridwatch.config import Config, load_config
from gridwatch.config_reference import renewed
from gridwatch.daemon import CrashNotes
from gridwatch.host import Host
from gridwatch.present import say
from pipeline.analyse.analyser import CameraAnalyser
from pipeline.analyse.scenario import CameraContext, load_scenario, scenario_names
from pipeline.testing import frame_at
from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "deploy" / "README.md",
    REPOSITORY / "models" / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
OURS = [page for page in PAGES if page.parent.name == "docs"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGIN = "gridwatch_lamp_out"


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, language, text)
        for page in PAGES
        for language, text in FENCE.findall(page.read_text("utf-8"))
        if language in languages
    ]


def named(block: Block) -> str:
    return f"{block.page.relative_to(REPOSITORY)}: {block.text.strip().splitlines()[0][:60]}"


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def shell_lines(block: Block) -> Iterator[list[str]]:
    """The commands of a console block as tokens, without prompts, comments, variables and output."""
    prompted = block.language == "console"
    for line in block.text.replace("\\\n", " ").splitlines():
        if prompted and not line.startswith("$ "):
            continue
        tokens = shlex.split(line.removeprefix("$ "), comments=True)
        command: list[str] = []
        for token in [*tokens, "|"]:
            if token in ("|", "&&", ";", "&", ">"):
                while command and re.match(r"\w+=", command[0]):
                    command.pop(0)
                if command:
                    yield command
                command = []
            else:
                command.append(token)


def commands(program: str) -> list[tuple[Block, list[str]]]:
    return [
        (block, tokens[1:])
        for block in blocks("console", "sh")
        for tokens in shell_lines(block)
        if Path(tokens[0]).name == program
    ]


# -- the fifth scenario ----------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of architecture.md, on the path as pip would have installed it; gives its scenario's name."""
    files = {
        found[1]: block.text
        for block in blocks("toml", "python")
        if (found := re.match(r"# file: (\S+)\n", block.text))
    }
    project = tomllib.loads(files["pyproject.toml"])["project"]
    installed = tmp_path / "site-packages"
    information = installed / f"{PLUGIN}-{project['version']}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", "utf-8"
    )
    points = project["entry-points"]["gridwatch.scenarios"]
    lines = ["[gridwatch.scenarios]", *(f"{name} = {where}" for name, where in points.items())]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (installed / f"{PLUGIN}.py").write_text(files[f"{PLUGIN}.py"], "utf-8")
    monkeypatch.syspath_prepend(installed)
    (name,) = points
    return str(name)


def test_the_fifth_scenario_is_found(plugin: str) -> None:
    assert plugin in scenario_names()
    scenario = load_scenario(plugin)
    assert scenario.id == plugin
    assert set(scenario.title) == {"zh", "en"}


def test_the_fifth_scenario_raises_once_when_the_lamp_goes_out_and_not_by_day(plugin: str) -> None:
    zone = ZoneInfo("Asia/Shanghai")
    scenario = load_scenario(plugin)
    ground = [[0.2, 0.6], [0.8, 0.6], [0.9, 1.0], [0.1, 1.0]]
    parameters = scenario.Parameters.model_validate({"ground": ground, "active": ["18:30-06:00"]})
    context = CameraContext("path-1", zone)

    def raised(start: datetime) -> list[int]:
        analyser = CameraAnalyser(context, [scenario(context, parameters)], {})
        rules = RuleBook(lambda _camera, _scenario: parameters)
        times = []
        for second in range(0, 300, 5):
            t = start.timestamp() + second
            image = np.full((90, 160, 3), 90 if second < 60 else 8, np.uint8)
            frame = frame_at(t, image, camera_id="path-1")
            assert analyser.plan(frame) == frozenset()
            for observation in analyser.observe(frame, {}):
                changes = rules.update(observation)
                times += [second for c in changes if c.kind is ChangeKind.RAISED]
        assert analyser.faults == {}
        return times

    (at,) = raised(datetime(2026, 5, 1, 21, 0, tzinfo=zone))
    assert 115 <= at <= 130  # out at 60 s, and a minute of it
    assert raised(datetime(2026, 5, 1, 12, 0, tzinfo=zone)) == []


# -- configuration ---------------------------------------------------------------------------------------------------


def configurations() -> list[Block]:
    return [
        block
        for block in blocks("yaml")
        if block.text.startswith("cameras:") or re.search(r"^site:", block.text, re.MULTILINE)
    ]


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("block", configurations(), ids=named)
def test_every_configuration_loads(block: Block, tmp_path: Path) -> None:
    text = block.text
    if text.startswith("cameras:"):
        text = "site: {id: demo}\n" + text
    file = tmp_path / "cameras.yaml"
    file.write_text(text, "utf-8")
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "secret")
    assert load_config(file, variables).cameras


def test_configurations_are_found() -> None:
    pages = {block.page.name for block in configurations()}
    assert {"README.md", "configuration.md", "mqtt.md", "architecture.md"} <= pages


def test_every_other_yaml_block_is_yaml() -> None:
    for block in blocks("yaml"):
        assert yaml.safe_load(block.text) is not None, named(block)


def test_the_reference_of_the_configuration_is_up_to_date() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text("utf-8")
    assert renewed(text) == text, "run: python -m gridwatch.config_reference"


def test_the_reference_explains_every_key() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert len(rows) > 100
    assert [row for row in rows if not row[1].strip() or not row[3].strip()] == []


def test_the_reference_needs_its_marks() -> None:
    with pytest.raises(ValueError, match="no pair of marks"):
        renewed("# Configuration\n")


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [tokens for _, tokens in commands("gridwatch")], ids=" ".join)
def test_every_gridwatch_command_is_one(arguments: list[str]) -> None:
    """Click parses it whole, with its options, choices and required arguments; nothing is run."""
    parse(arguments)


def parse(arguments: list[str]) -> None:
    command, rest = resolve(arguments)
    with command.make_context(" ".join(["gridwatch", *arguments]), rest):
        pass


def resolve(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that the arguments lead to, and what is left of them."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands") and rest:
        if rest[0] not in command.commands and hasattr(command, "default"):
            rest.insert(0, command.default)
        assert rest[0] in command.commands, f"gridwatch {' '.join(arguments)}: no {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def test_a_wrong_command_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="no 'escalate'"):
        parse(["tickets", "escalate", "4N0K"])
    with pytest.raises(Exception, match="--colour"):
        parse(["watch", "--colour"])
    with pytest.raises(Exception, match="maybe"):
        parse(["tickets", "dispose", "4N0K", "--outcome", "maybe"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_command_in_the_prose_exists(page: Path) -> None:
    for span in re.findall(r"`gridwatch ([a-z][^`]*)`", prose(page)):
        words = [word for word in span.split() if re.fullmatch(r"[a-z]+|--?[a-z][a-z-]*", word)]
        command, rest = resolve(words)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= known, span


def test_every_module_that_is_run_exists() -> None:
    ours = ("alerts", "benchmarks", "console", "gridwatch", "models", "pipeline")
    for page in PAGES:
        for module in re.findall(r"python\S* -m ([\w.]+)", page.read_text("utf-8")):
            if module.split(".")[0] in ours:
                assert importlib.util.find_spec(module) is not None, f"{page.name}: {module}"


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^\$ |`)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# -- MQTT and the store ----------------------------------------------------------------------------------------------


def test_every_command_that_is_published_is_understood() -> None:
    topics, handled = Topics("demo"), []
    receiver = CommandReceiver(topics, lambda command, _t: handled.append(command))
    sent = 0
    for _, tokens in commands("mosquitto_pub"):
        topic = tokens[tokens.index("-t") + 1].replace("$T", "01M83MGWE4NDC146DRT5J34N0K")
        if "/commands/" in topic:
            sent += 1
            payload = tokens[tokens.index("-m") + 1].encode()
            receiver.receive(topic, payload, "-r" in tokens, 1_800_000_000.0)
    assert sent >= 3
    assert [command.user for command in handled] == ["wang"] * sent


def test_every_answer_in_the_text_is_one() -> None:
    replies = [json.loads(block.text) for block in blocks("json") if '"command_id"' in block.text]
    assert replies
    for reply in replies:
        assert Reply.model_validate(reply, extra="forbid").ok


def test_the_page_of_commands_names_all_fields_actions_and_outcomes() -> None:
    text = (REPOSITORY / "docs" / "mqtt.md").read_text("utf-8")
    aliases = (field.alias or name for name, field in Command.model_fields.items())
    for word in {*aliases, *Action, *Outcome, *TicketState, *TicketCondition} - {
        "user",
        "ticket_id",
    }:
        assert f"`{word}`" in text, word


def test_the_reader_of_the_text_drops_what_comes_twice() -> None:
    (block,) = (block for block in blocks("python") if "def is_news" in block.text)
    names: dict[str, object] = {}
    exec(compile(block.text, str(block.page), "exec"), names)  # noqa: S102 - our own example
    is_news = names["is_news"]
    assert callable(is_news)
    messages = [("a", 1), ("a", 1), ("b", 1), ("a", 3), ("a", 2)]
    found = [is_news({"id": name, "version": version}) for name, version in messages]
    assert found == [True, False, True, True, False]


def test_every_query_runs_on_a_store(tmp_path: Path) -> None:
    file = tmp_path / "tickets.sqlite"
    Store(file).close()
    queries = [tokens[-1] for _, tokens in commands("sqlite3") if tokens[-1].startswith("SELECT")]
    assert len(queries) >= 2
    database = sqlite3.connect(file)
    try:
        for query in queries:
            assert database.execute(query).fetchall() == []
    finally:
        database.close()


@contextmanager
def idle_host(folder: Path) -> Iterator[Host]:
    file = folder / "cameras.yaml"
    water = "[[0, 0.5], [1, 0.5], [1, 1]]"
    file.write_text(
        "site: {id: demo}\ncameras:\n"
        f"  - {{id: river-1, url: r.mp4, scenarios: {{river_discoloration: {{water: {water}}}}}}}\n",
        "utf-8",
    )
    config: Config = load_config(file, overrides=[f"storage.folder={folder}"])
    host = Host(config, folder, CrashNotes(folder))
    try:
        yield host
    finally:
        host.store.close()


def test_the_metrics_are_those_of_the_host(tmp_path: Path) -> None:
    with idle_host(tmp_path) as host:
        families = list(host.metrics.registry.collect())
    names = {f"{m.name}_total" if m.type == "counter" else m.name for m in families}
    text = (REPOSITORY / "docs" / "operation.md").read_text("utf-8")
    assert set(re.findall(r"`(gridwatch_\w+)`", text)) == names


def test_operators_find_their_words() -> None:
    text = (REPOSITORY / "docs" / "operation.md").read_text("utf-8")
    operators = text.partition("## 值班人员操作页")[2]
    words = {say(word, "zh") for word in (*TicketState, *TicketCondition, *Outcome)}
    words |= {say(word, "zh") for word in ("minor", "major", "critical", "simulated")}
    words |= {load_scenario(name).title["zh"] for name in scenario_names()}
    assert {word for word in words if word not in operators} == set()


# -- links -----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert file.is_relative_to(REPOSITORY), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_the_readme_leads_to_every_page() -> None:
    text = (REPOSITORY / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", text))
    for name in ("architecture", "configuration", "mqtt", "operation"):
        assert f"docs/{name}.md" in linked


def test_the_package_of_the_example_is_not_installed_here() -> None:
    """Or the tests above would not test the page's own text."""
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    assert "gridwatch-lamp-out" not in installed
