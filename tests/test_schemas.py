"""The published contract is what the code does."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml

from alerts.desk import TicketDesk
from alerts.mqtt import HostStatus
from alerts.schemas import asyncapi, command_schema, documents, write
from alerts.store import Batch, Store
from alerts.storm import StormControl, StormSettings
from alerts.tickets import Action, Command, Outcome, Reply, json_schema
from alerts.topics import Topics
from pipeline.exceptions import CommandError
from tests.conftest import REPOSITORY
from tests.test_dispatch import ticket

DOCUMENT = asyncapi()
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def check(instance: object, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema, format_checker=CHECKER).validate(instance)


def component(name: str) -> dict[str, Any]:
    """A schema of the AsyncAPI document, on its own feet."""
    return {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}


def test_the_written_documents_are_up_to_date() -> None:
    for name, text in documents().items():
        written = REPOSITORY / "docs" / "schema" / name
        assert written.read_text("utf-8") == text, "run: python -m alerts.schemas"


def test_writing_makes_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == set(documents())
    assert yaml.safe_load((tmp_path / "a/b/asyncapi.yaml").read_text("utf-8")) == DOCUMENT


def test_a_ticket_is_valid_and_a_damaged_one_is_not() -> None:
    document = json.loads(ticket("fire").to_json())
    check(document, json_schema())
    damages: list[tuple[str, object]] = [("state", "lost"), ("version", "1"), ("capture", {})]
    for name, value in [*damages, ("severity", "huge")]:
        with pytest.raises(jsonschema.ValidationError):
            check({**document, name: value}, json_schema())


@pytest.mark.parametrize(
    "payload",
    [
        {"command_id": "c1", "action": "acknowledge"},
        {"command_id": "c1", "action": "dispose", "outcome": "confirmed", "note": "out"},
        {"command_id": "c1", "action": "dispatch", "to": "brigade", "expected_version": 2,
         "expires": "2026-05-01T08:30:00.125Z", "from": "console"},
    ],
)  # fmt: skip
def test_schema_and_parser_agree_on_good_commands(payload: dict[str, Any]) -> None:
    check(payload, command_schema())
    Command.parse(json.dumps(payload), user="wang", ticket_id="T1")


@pytest.mark.parametrize(
    "payload",
    [
        {"action": "acknowledge"},
        {"command_id": "a/b", "action": "acknowledge"},
        {"command_id": "c1", "action": "explode"},
        {"command_id": "c1", "action": "acknowledge", "sudo": True},
        {"command_id": "c1", "action": "acknowledge", "expected_version": 0},
        {"command_id": "c1", "action": "note", "note": "x" * 2001},
    ],
)
def test_schema_and_parser_agree_on_bad_commands(payload: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(payload, command_schema())
    with pytest.raises(CommandError):
        Command.parse(json.dumps(payload), user="wang", ticket_id="T1")


def test_what_the_desk_publishes_is_what_is_described(tmp_path: Path) -> None:
    topics = Topics("s")
    with Store(tmp_path / "store.db") as store:
        storm = StormControl(StormSettings(), ZoneInfo("UTC"), lambda camera_id: camera_id)
        desk = TicketDesk(store, topics, "h", {}, lambda _change: pytest.fail("none"), storm)
        store.commit(Batch(1.8e9, tickets=[ticket("fire")])).result()
        reply = desk.handle(
            Command(command_id="c", ticket_id="T1", action=Action.DISPOSE, user="wang",
                    outcome=Outcome.CONFIRMED), 1.8e9,
        )  # fmt: skip
        assert isinstance(reply, Reply)
        messages = {
            row.message.topic: row.message.payload for row in store.pending() if row.message.payload
        }
    check(json.loads(messages[topics.ticket("T1")]), json_schema())
    check(json.loads(messages[topics.inbox("jinjiang/12/3")]), json_schema())
    check(json.loads(messages[topics.event("fire", "disposed")]), component("event"))
    check(json.loads(messages[topics.reply("wang", "c")]), component("reply"))
    status = HostStatus(host="h", status="online", since=1.0)
    check(status.model_dump(mode="json"), component("hostStatus"))


def test_every_topic_of_the_code_is_a_channel() -> None:
    makers = {
        name
        for name, member in inspect.getmembers(Topics, inspect.isfunction)
        if not name.startswith("_") and name != "parse_command"
    }
    assert len(DOCUMENT["channels"]) == len(makers)
    for channel in DOCUMENT["channels"].values():
        assert channel["address"].startswith("gridwatch/{site}/")
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []


def test_every_reference_leads_somewhere() -> None:
    found = references(DOCUMENT)
    assert found
    for reference in found:
        if reference.startswith("./"):
            assert reference.removeprefix("./") in documents()
            continue
        node: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_operation_has_its_channel_and_quality_of_service() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["operations"].keys() == DOCUMENT["channels"].keys()
    for name, operation in DOCUMENT["operations"].items():
        assert operation["action"] == ("receive" if name == "command" else "send")
        assert operation["bindings"]["mqtt"]["qos"] == (0 if name == "actuator" else 1)
