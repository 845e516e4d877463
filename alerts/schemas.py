"""The contract with other platforms, written from the code: JSON Schemas and an AsyncAPI document.

``python -m alerts.schemas`` writes them to ``docs/schema``; a test keeps them up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from alerts.mqtt import HostStatus
from alerts.tickets import (
    TICKET_SCHEMA,
    Command,
    Outcome,
    Reply,
    TicketCondition,
    TicketState,
    json_schema,
)
from alerts.topics import Topics

__all__ = ["asyncapi", "command_schema", "documents", "write"]

FOLDER = Path("docs/schema")
DRAFT = "https://json-schema.org/draft/2020-12/schema"
# Of the contract, not of the program: the last part of the ticket's schema name.
VERSION = f"{TICKET_SCHEMA.rpartition('/')[2]}.0.0"

_EVENT_KINDS = ("raised", "updated", "cleared", "evidence", "attached", "escalated")
_PARAMETERS = {
    "site": "The site's id in cameras.yaml.",
    "ticketId": "The ticket's id: 26 characters, sorted by the time of the alarm.",
    "scenario": "Identifier of the scenario, e.g. fire; camera_health for the cameras themselves.",
    "stage": "The state that the ticket has now: warned, acknowledged, dispatched or disposed.",
    "grid": "Path of a grid (total/general/micro, so this parameter spans levels) or departments/{name}.",
    "camera": "The camera's id.",
    "host": "The host's id.",
    "user": "The MQTT user name of the person; the broker's ACL lets nobody else publish here.",
    "commandId": "The command's command_id.",
    "action": "What the actuator is to do, e.g. hold_door.",
}


def command_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a command's payload; user and ticket are those of its topic."""
    schema = Command.model_json_schema(by_alias=True)
    for name in ("user", "ticket_id"):
        del schema["properties"][name]
        schema["required"].remove(name)
    return {"$schema": DRAFT, "$id": "urn:gridwatch:command:1", **schema}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of all topics, from the point of view of a camera host."""
    topics = Topics("{site}")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}

    def channel(
        name: str, action: str, address: str, message: str, summary: str, **mqtt: object
    ) -> None:
        names = [name for name in _PARAMETERS if f"{{{name}}}" in address]
        channels[name] = {
            "address": address,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
            "parameters": {name: {"description": _PARAMETERS[name]} for name in names},
        }
        operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": summary,
            "bindings": {"mqtt": {**mqtt, "bindingVersion": "0.2.0"}},
        }

    channel(
        "ticket",
        "send",
        topics.ticket("{ticketId}"),
        "ticket",
        "Each version of a ticket. Retained while it is open; an empty message clears it after "
        "the disposed version. A repeat has the same version: drop it.",
        qos=1,
        retain=True,
    )
    channel(
        "event",
        "send",
        topics.event("{scenario}", "{stage}"),
        "event",
        "Each change of a ticket, in short.",
        qos=1,
        retain=False,
    )
    channel(
        "inbox",
        "send",
        topics.inbox("{grid}"),
        "ticket",
        "What the responders of a grid or a department subscribe to.",
        qos=1,
        retain=False,
    )
    channel(
        "cameraStatus",
        "send",
        topics.camera_status("{camera}"),
        "cameraStatus",
        "A camera's state, again on every change and every minute.",
        qos=1,
        retain=True,
    )
    channel(
        "hostStatus",
        "send",
        topics.host_status("{host}"),
        "hostStatus",
        "Whether a host is there; offline with reason lost is its last will.",
        qos=1,
        retain=True,
    )
    channel(
        "command",
        "receive",
        topics.command("{user}", "{ticketId}"),
        "command",
        "A person's command on a ticket. Retained commands are refused.",
        qos=1,
        retain=False,
    )
    channel(
        "reply",
        "send",
        topics.reply("{user}", "{commandId}"),
        "reply",
        "The answer to a command, from the ticket's host.",
        qos=1,
        retain=False,
    )
    channel("actuator", "send", topics.actuator("{camera}", "{action}"), "actuation",
            "At most once, never kept; to be ignored after expires.", qos=0, retain=False)  # fmt: skip

    schemas: dict[str, Any] = {
        "event": _event_schema(),
        "cameraStatus": _camera_status_schema(),
        "actuation": _actuation_schema(),
    }
    for name, model in (("reply", Reply), ("hostStatus", HostStatus)):
        schemas[name] = _hoisted(model, schemas)
    payloads: dict[str, Any] = {
        "ticket": {"$ref": "./ticket.schema.json"},
        "command": {"$ref": "./command.schema.json"},
        **{name: {"$ref": f"#/components/schemas/{name}"}
           for name in ("event", "cameraStatus", "hostStatus", "reply", "actuation")},
    }  # fmt: skip
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "gridwatch",
            "version": VERSION,
            "description": "Safety tickets from community cameras, and commands on them.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                name: {"name": name, "contentType": "application/json", "payload": payload}
                for name, payload in payloads.items()
            },
            "schemas": schemas,
        },
    }


def _hoisted(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """A model's schema whose definitions moved to the document's components."""
    schema = model.model_json_schema(
        mode="serialization", by_alias=True, ref_template="#/components/schemas/{model}"
    )
    schemas.update(schema.pop("$defs", {}))
    return schema


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _event_schema() -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    return _object(
        {
            "kind": {**text, "description": f"{', '.join(_EVENT_KINDS)}, or a person's action."},
            "ticket_id": text,
            "version": {"type": "integer", "minimum": 1},
            "state": {"enum": [state.value for state in TicketState]},
            "condition": {"enum": [condition.value for condition in TicketCondition]},
            "severity": {"enum": ["minor", "major", "critical"]},
            "scenario": text,
            "camera": text,
            "grid": text,
            "host": text,
            "outcome": {"enum": [*(outcome.value for outcome in Outcome), None]},
            "time": {"type": "string", "format": "date-time"},
            "by": {**text, "description": "The person, or the host for what the analysis did."},
            "from": {**text, "description": "From where a person did it; empty for the host."},
            "note": {"type": ["string", "null"]},
            "to": {"type": ["string", "null"], "description": "Whom it was dispatched to."},
            "command_id": {"type": ["string", "null"]},
            "detail": {
                "type": "object",
                "description": "What else the audit trail has of it, by kind: grid and grid_before "
                "(reassign), photos (paths), added (evidence), calls (escalated) and others.",
            },
        }
    )


def _camera_status_schema() -> dict[str, Any]:
    seconds = {"type": ["number", "null"], "description": "Seconds since the epoch."}
    return _object(
        {"camera": {"type": "string"}, "state": {"type": "string"}},
        {
            "reason": {"type": ["string", "null"]},
            "host": {"type": "string"},
            "t": seconds,
            "last_frame_t": seconds,
            "decode_level": {
                "enum": ["keyframes", "reference", "all"],
                "description": "Which pictures are decoded; more than the key frames costs CPU.",
            },
            "keyframe_interval_s": {
                "type": ["number", "null"],
                "description": "Longest of the recent measured intervals; null until there is one.",
            },
            "rate_wanted_hz": {"type": "number", "minimum": 0},
            "rate_hz": {
                "type": "number",
                "minimum": 0,
                "description": "Pictures per second that are granted; less than wanted is overload.",
            },
            "reconnects": {"type": "integer", "minimum": 0},
            "faults": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Scenarios that cannot work, with the reason.",
            },
            "unknown": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Scenarios that cannot tell at present, with the reason.",
            },
        },
    )


def _actuation_schema() -> dict[str, Any]:
    return _object(
        {"expires": {"type": "number", "description": "Seconds since the epoch; ignore it after."}}
    )


def documents() -> dict[str, str]:
    """The texts of all documents, by file name."""
    return {
        "ticket.schema.json": _json(json_schema()),
        "command.schema.json": _json(command_schema()),
        "asyncapi.yaml": yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=100),
    }


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write all documents into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
