"""grids.yaml: read beside cameras.yaml, wrong in a place that is named; actuators and the command line on a real broker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from alerts.mqtt import Publisher
from alerts.store import Store
from alerts.tickets import Ticket, TicketState, instant
from gridwatch.actuators import Actuators, ActuatorSettings
from gridwatch.config import Config, load_config
from pipeline.exceptions import ConfigError
from tests.broker import Broker, mosquitto
from tests.conftest import REPOSITORY
from tests.site import gridwatch
from tests.test_feed import IDS, TOPICS, Host, settings, ticket

EXAMPLE = (REPOSITORY / "deploy" / "grids.example.yaml").read_text("utf-8")
CAMERAS = """\
site: {id: s, language: en}
host: h
storage: {folder: %s}
dispatch: {grids_file: grids.yaml}
cameras:
  - {id: gate, url: rtsp://127.0.0.1:1/x, grid: jinjiang/12/3, scenarios: {fire: {}}}
"""


def load(folder: Path, grids: str, cameras: str = CAMERAS) -> Config:
    (folder / "grids.yaml").write_text(grids, "utf-8")
    file = folder / "cameras.yaml"
    file.write_text(cameras % (folder / "state"), "utf-8")
    return load_config(file, {"FIRE_CONTACT": "json://secret-119@h/"})


def test_the_example_is_whole(tmp_path: Path) -> None:
    dispatch = load(tmp_path, EXAMPLE).dispatch
    assert dispatch.paths()[:3] == ["jinjiang", "jinjiang/12", "jinjiang/12/3"]
    grid = dispatch.grid("jinjiang/12/3")
    assert grid is not None
    assert (grid.name.say("en"), grid.households) == ("Micro-grid 3", 60)
    assert dispatch.people[-1].contacts[0].get_secret_value() == "json://secret-119@h/"
    assert dispatch.ladder("illegal_parking").unacknowledged[2].after == 600
    assert list(dispatch.problems()) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("households: 420", "household: 420", "did you mean 'households'?"),
        ("people:", "peoples:", "did you mean 'people'?"),
        ("[jinjiang/12/3]\n", "[jinjiang/12/33]\n", "found 'jinjiang/12/33'"),
        ("after: 10m", "after: 10 minuets", "expected a duration"),
        ("  illegal_parking:\n    un", "  illegal_parkin:\n    un", "no scenario 'illegal_parkin'; did you mean 'illegal_parking'?"),
        ("to: [total, departments]}\n  illegal", "to: [departments/firemen]}\n  illegal", "no department 'firemen'"),
        ('["22:00-07:00"]', '["at night"]', "expected a window"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_file_and_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in EXAMPLE
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, EXAMPLE.replace(old, new, 1))
    text = str(caught.value)
    line = EXAMPLE[: EXAMPLE.index(old)].count("\n") + 1
    assert f"{tmp_path / 'grids.yaml'}:" in text
    assert said in text
    assert any(abs(int(part.split(":")[1]) - line) <= 2 for part in text.splitlines())
    assert "secret-119" not in text


def test_what_stands_in_both_files_is_refused(tmp_path: Path) -> None:
    both = CAMERAS.replace("grids.yaml}", "grids.yaml, people: []}")
    with pytest.raises(
        ConfigError, match=r"cameras.yaml:4: dispatch.people: stands in .*grids.yaml too"
    ):
        load(tmp_path, EXAMPLE, both)


def test_actuators_of_a_scenario_that_the_camera_has_not_are_refused(tmp_path: Path) -> None:
    cameras = CAMERAS.replace(
        "scenarios: {fire: {}}}", "scenarios: {fire: {}}, actuators: {fires: [{action: siren}]}}"
    )
    with pytest.raises(
        ConfigError, match="the camera has no scenario 'fires'; did you mean 'fire'"
    ):
        load(tmp_path, EXAMPLE, cameras)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path / "broker") as running:
        yield running


def raised(t: float, **more: object) -> Ticket:
    new = ticket(IDS[0])
    captured = new.capture.model_copy(update={"time": instant(t)})
    return new.model_copy(update={"capture": captured, "version": 1, **more})


@pytest.mark.real
def test_an_actuator_hears_of_a_fresh_alarm_once_and_never_of_others(
    broker: Broker, tmp_path: Path
) -> None:
    collector = broker.collect(f"{TOPICS.prefix}/actuators/#")
    wanted = {
        raised(0).scenario: (
            ActuatorSettings(action="hold_door", hold=20.0),
            ActuatorSettings.model_validate(
                {"action": "voice_prompt", "text": "请勿将电动车推入电梯"}
            ),
        )
    }
    now = time.time()
    with Store(tmp_path / "s.db") as store:
        publisher = Publisher(settings(broker.port), store, TOPICS, "h")
        camera = raised(0).camera.id
        actuators = Actuators({camera: wanted}, {camera}, publisher.actuate)
        fresh = raised(now)
        assert actuators.raised(fresh, now) == 0, "no broker yet: never, and not later"
        publisher.start()
        assert publisher.flush(5)
        assert actuators.raised(fresh, now) == 2
        for other in (
            raised(now, simulated=True),
            raised(now - 60),
            raised(now, version=2),
            raised(now, scenario="river_discoloration"),
        ):
            assert actuators.raised(other, now) == 0
        assert Actuators({camera: wanted}, set(), publisher.actuate).raised(fresh, now) == 0
        got = collector.wait(lambda messages: len(messages) >= 2)
        assert store.pending_count() == 0
        publisher.close()
    assert [(m.topic.rpartition("/")[2], m.qos, m.retain) for m in got] == [
        ("hold_door", 0, False),
        ("voice_prompt", 0, False),
    ]
    door, voice = (json.loads(m.payload) for m in got)
    assert door["hold_s"] == 20.0
    assert now < door["expires"] < now + 10
    assert voice["text"] == {"zh": "请勿将电动车推入电梯", "en": "请勿将电动车推入电梯"}


@pytest.mark.real
def test_a_ticket_goes_through_its_life_on_the_command_line(broker: Broker, tmp_path: Path) -> None:
    host = Host(tmp_path, settings(broker.port))
    host.raise_ticket(ticket(IDS[0]))
    host.publisher.start()
    assert host.publisher.flush(5)
    document = {
        "site": {"id": "s", "language": "en"},
        "host": "h",
        "broker": {"host": "127.0.0.1", "port": broker.port},
        "storage": {"folder": str(tmp_path), "database": f"sqlite:///{tmp_path / 'host.db'}"},
        "cameras": [{"id": "c", "url": "rtsp://127.0.0.1:1/x", "scenarios": {"fire": {}}}],
    }
    file = tmp_path / "cameras.yaml"
    file.write_text(yaml.safe_dump(document), "utf-8")
    end, where = IDS[0][-6:], ("-c", str(file), "-u", "wang")
    try:
        for arguments, state in (
            (("dispatch", end, "--to", "li"), TicketState.DISPATCHED),
            (("note", end, "on my way"), TicketState.DISPATCHED),
            (("dispose", end, "--outcome", "false_alarm"), TicketState.DISPOSED),
            (("reopen", end), TicketState.WARNED),
            (("reassign", end, "--grid", "town/12/9"), TicketState.WARNED),
        ):
            done = gridwatch("tickets", *arguments, *where)
            assert done.returncode == 0, done.stderr
            stored = host.store.ticket(IDS[0])
            assert stored is not None
            assert stored.state is state
        refused = gridwatch("tickets", "note", end, "x", "--photo", os.devnull + "x", *where)
        assert refused.returncode == 2
        assert "cannot be read" in refused.stderr
        shown = gridwatch("tickets", "history", end, "-c", str(file), "--lang", "zh")
        for word in ("派单", "备注", "重新打开", "转派", "wang", "cli", "grid=town/12/9"):
            assert word in shown.stdout, shown.stdout + shown.stderr
        english = gridwatch("tickets", "history", end, "-c", str(file))
        assert "reassign" in english.stdout
    finally:
        host.close()
