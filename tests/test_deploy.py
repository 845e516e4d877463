"""What is shipped for deployment works: the broker's configuration and ACL on a real mosquitto, the unit, the image."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from pydantic import SecretStr

from alerts.connection import BrokerSettings, TlsSettings
from alerts.mqtt import CommandReceiver, Publisher
from alerts.store import Batch, Message, Store
from alerts.tickets import Command
from alerts.topics import Topics
from tests.broker import Broker, Certificates, free_port, mosquitto, wait_for
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
TOPICS = Topics("demo")
HOST = "demo-host"
USERS = {HOST: "h", "wang": "w", "li": "l"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, int, Certificates]]:
    """The shipped configuration and ACL; only paths and ports are replaced."""
    folder = tmp_path_factory.mktemp("shipped")
    made = Certificates.make(folder / "certs")
    for old, new in ((made.cert, "server.crt"), (made.key, "server.key")):
        assert (folder / "certs" / new) == old
    shutil.copy(DEPLOY / "mosquitto" / "acl", folder / "acl")
    plain, tls = free_port(), free_port()
    text = (DEPLOY / "mosquitto" / "mosquitto.conf").read_text("utf-8")
    for old_text, new_text in (
        ("/etc/mosquitto/", f"{folder}/"),
        ("/var/lib/mosquitto/", f"{folder}/"),
        ("listener 1883 127.0.0.1", f"listener {plain} 127.0.0.1"),
        ("listener 8883", f"listener {tls} 127.0.0.1"),
        ("log_dest stderr", f"log_dest file {folder}/mosquitto.log"),
    ):
        assert old_text in text
        text = text.replace(old_text, new_text)
    if os.geteuid() == 0:
        text += "user root\n"
    with mosquitto(folder, start=False, port=plain, config=text, users=USERS) as broker:
        broker.start()
        yield broker, tls, made


def publish(broker: Broker, user: str, topic: str) -> bool:
    """Whether the broker takes a message of this user on the topic (MQTT 5 says)."""
    said: list[bool] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.username_pw_set(user, USERS[user])
    client.on_publish = lambda _c, _u, _m, reason, _p: said.append(not reason.is_failure)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        client.publish(topic, "{}", qos=1)
        wait_for(lambda: said)
    finally:
        client.disconnect()
        client.loop_stop()
    return said[0]


@pytest.mark.real
@pytest.mark.parametrize(
    ("user", "topic", "allowed"),
    [
        pytest.param("wang", TOPICS.command("wang", "T1"), True, id="own command"),
        pytest.param("wang", TOPICS.command("li", "T1"), False, id="another's command"),
        pytest.param("wang", TOPICS.command(HOST, "T1"), False, id="the host's command"),
        pytest.param("wang", TOPICS.ticket("T1"), False, id="a forged ticket"),
        pytest.param("wang", TOPICS.reply("li", "c1"), False, id="a forged reply"),
        pytest.param("wang", TOPICS.actuator("lift", "hold_door"), False, id="an actuator"),
        pytest.param("wang", TOPICS.host_status(HOST), False, id="a host's status"),
        pytest.param("wang", "elsewhere", False, id="anything else"),
        pytest.param(HOST, TOPICS.ticket("T1"), True, id="host: ticket"),
        pytest.param(HOST, TOPICS.event("fire", "warned"), True, id="host: event"),
        pytest.param(HOST, TOPICS.inbox("a/b/c"), True, id="host: inbox"),
        pytest.param(HOST, TOPICS.reply("wang", "c1"), True, id="host: reply"),
        pytest.param(HOST, TOPICS.camera_status("lift"), True, id="host: camera"),
        pytest.param(HOST, TOPICS.actuator("lift", "hold_door"), True, id="host: actuator"),
        pytest.param(HOST, TOPICS.host_status(HOST), True, id="host: itself"),
        pytest.param(HOST, TOPICS.host_status("other"), False, id="host: another host"),
        pytest.param(HOST, TOPICS.command("wang", "T1"), False, id="host: a person's command"),
        pytest.param(HOST, Topics("other").ticket("T1"), False, id="host: another site"),
    ],
)
def test_who_may_write(
    shipped: tuple[Broker, int, Certificates], user: str, topic: str, allowed: bool
) -> None:
    assert publish(shipped[0], user, topic) is allowed


@pytest.mark.real
def test_a_person_reads_the_feed_and_the_own_replies_alone(
    shipped: tuple[Broker, int, Certificates],
) -> None:
    broker = shipped[0]
    collector = broker.collect("gridwatch/#", username="wang", password="w")
    seen = [TOPICS.ticket("T2"), TOPICS.event("fire", "warned"), TOPICS.inbox("a/b"),
            TOPICS.camera_status("lift"), TOPICS.host_status(HOST), TOPICS.reply("wang", "c")]  # fmt: skip
    for topic in [TOPICS.reply("li", "c"), TOPICS.actuator("lift", "hold_door"), *seen]:
        broker.publish(topic, "{}", username=HOST, password="h")
    broker.publish(TOPICS.command("li", "T2"), "{}", username="li", password="l")
    broker.publish(TOPICS.ticket("end"), "{}", username=HOST, password="h")
    got = collector.wait(lambda messages: messages and messages[-1].topic == TOPICS.ticket("end"))
    # What is retained was left by other tests on the same broker
    assert [message.topic for message in got if not message.retain][:-1] == seen


@pytest.mark.real
def test_a_host_works_over_tls_with_what_is_shipped(
    shipped: tuple[Broker, int, Certificates], tmp_path: Path
) -> None:
    broker, tls_port, made = shipped
    commands: list[Command] = []
    settings = BrokerSettings(
        host="localhost", port=tls_port, username=HOST, password=SecretStr("h"),
        tls=TlsSettings(ca=made.ca), retry_min=0.1,
    )  # fmt: skip
    with Store(tmp_path / "store.db") as store:
        receiver = CommandReceiver(TOPICS, lambda command, _t: commands.append(command))
        publisher = Publisher(settings, store, TOPICS, HOST, commands=receiver)
        message = Message(TOPICS.ticket("T9"), b"x" * 120_000, retain=True)
        store.commit(Batch(time.time(), messages=[message])).result()
        publisher.start()
        assert publisher.flush(5)
        assert publisher.status().refused == 0
        assert publisher.status().protocol == "5"
        held = broker.retained(TOPICS.ticket("T9"), username="wang", password="w")
        assert len(held[TOPICS.ticket("T9")]) == 120_000
        payload = json.dumps({"command_id": "c1", "action": "acknowledge"})
        broker.publish(TOPICS.command("wang", "T9"), payload, username="wang", password="w")
        wait_for(lambda: [command.user for command in commands] == ["wang"])
        publisher.close()


@pytest.mark.real
def test_nobody_enters_without_a_password(shipped: tuple[Broker, int, Certificates]) -> None:
    answers: list[bool] = []
    for password in (None, "wrong"):
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.on_connect = lambda _c, _u, _f, reason, _p: answers.append(reason.is_failure)
        if password is not None:
            client.username_pw_set("wang", password)
        client.connect("127.0.0.1", shipped[0].port)
        before = len(answers)
        deadline = time.monotonic() + 5
        while len(answers) == before and time.monotonic() < deadline:
            client.loop(0.2)
    assert answers == [True, True]


def test_the_broker_takes_what_a_host_may_send() -> None:
    text = (DEPLOY / "mosquitto" / "mosquitto.conf").read_text("utf-8")
    limits = {key: int(value) for key, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
    assert limits["message_size_limit"] >= BrokerSettings().max_message
    assert limits["max_inflight_messages"] >= BrokerSettings().max_inflight
    assert limits["max_queued_messages"] >= 100_000


@pytest.mark.parametrize(("name", "verb"), [("gridwatch", "run"), ("gridwatch-console", "console")])
def test_the_units_end_cleanly_restart_for_ever_and_are_hardened(name: str, verb: str) -> None:
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # keys are as written
    unit.read(DEPLOY / f"{name}.service")
    service = unit["Service"]
    expected = {
        "Restart": "always", "KillSignal": "SIGTERM", "TimeoutStopSec": "10",
        "DynamicUser": "yes", "ProtectSystem": "strict", "StateDirectory": name,
        "NoNewPrivileges": "yes",
    }  # fmt: skip
    assert {key: service.get(key) for key in expected} == expected
    assert "WatchdogSec" not in service, "the daemon does not speak sd_notify"
    assert service["ExecStart"].split()[1] == verb
    if shutil.which("systemd-analyze"):
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(DEPLOY / f"{name}.service")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = [line for line in verified.stderr.splitlines() if f"{name}.service" in line]
        # The program is not installed where tests run
        assert [line for line in lines if "is not executable" not in line] == []


def test_the_image_is_made_from_what_is_there_and_runs_as_nobody() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert stages == ["python:3.11-slim"] * 2
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    listed = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = [line.removeprefix("!") for line in listed if line.startswith("!")]
    assert {"LICENSE", "README.md", "cameras.yaml", "pyproject.toml"} <= set(kept)
    # Everything that the wheel is built from is let through
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    packages = re.search(r"^packages = \[(.*)\]$", project, re.MULTILINE)
    assert packages is not None
    assert set(re.findall(r'"(\w+)"', packages[1])) <= set(kept)


def test_compose_starts_broker_and_host_together() -> None:
    compose = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text("utf-8"))
    services = compose["services"]
    assert set(services) == {"mosquitto", "gridwatch"}
    assert services["gridwatch"]["network_mode"] == "service:mosquitto"
    assert services["gridwatch"]["stop_grace_period"] == "10s"
    named = {volume.split(":")[0] for s in services.values() for volume in s["volumes"]}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])
    build = services["gridwatch"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
