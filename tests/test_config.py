"""cameras.yaml: what is accepted, and that each mistake gets one line with file, line, path, found, expected."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest

from gridwatch.config import Config, load_config
from pipeline.analyse import scenario
from pipeline.analyse.scenario import Scenario
from pipeline.exceptions import ConfigError
from tests.conftest import REPOSITORY

MINIMAL = """\
site: {id: demo}
cameras:
  - id: cam-1
    url: rtsp://10.0.0.1/stream
    scenarios: {fire: {}}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "cameras.yaml"
    file.write_text(dedent(text), encoding="utf-8")
    return file


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    return load_config(write(folder, text), environ or {})


def problem(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ)
    assert len(caught.value.problems) == 1, caught.value.problems
    line = caught.value.problems[0]
    assert "\n" not in line
    return line.removeprefix(f"{folder / 'cameras.yaml'}:")


def test_the_shipped_configuration_is_valid() -> None:
    config = load_config(REPOSITORY / "cameras.yaml", {})
    assert {name for camera in config.cameras for name in camera.scenarios} == {
        "ebike_in_elevator",
        "fire",
        "illegal_parking",
        "river_discoloration",
    }
    for camera in config.cameras:
        assert Path(camera.stream.analysed_url).is_file()


def test_the_least_that_works(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config.camera("cam-1").scenarios["fire"].raise_after > 0
    assert config.site.language == "zh"


def test_scenarios_may_be_a_list(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL.replace("{fire: {}}", "[fire]"))
    assert list(config.camera("cam-1").scenarios) == ["fire"]


def test_defaults_hold_until_a_camera_says_otherwise(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """\
        site: {id: demo}
        defaults:
          stream: {transport: udp}
          scenarios: {fire: {raise_after: 7s, cooldown: 5m}}
        cameras:
          - {id: a, url: rtsp://h/1, scenarios: {fire: {}}}
          - {id: b, url: rtsp://h/2, transport: tcp, scenarios: {fire: {raise_after: 1s}}}
        """,
    )
    assert config.camera("a").scenarios["fire"].raise_after == 7
    assert config.camera("b").scenarios["fire"].raise_after == 1
    assert config.camera("b").scenarios["fire"].cooldown == 300
    assert (config.camera("a").stream.transport, config.camera("b").stream.transport) == (
        "udp",
        "tcp",
    )


def test_two_streams(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        MINIMAL.replace(
            "url: rtsp://10.0.0.1/stream", "streams: {detect: rtsp://h/2, record: rtsp://h/1}"
        ),
    )
    assert config.camera("cam-1").stream.analysed_url == "rtsp://h/2"
    assert config.camera("cam-1").stream.recorded_url == "rtsp://h/1"


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL.replace("rtsp://10.0.0.1/stream", "clips/a.mp4"))
    assert config.camera("cam-1").stream.analysed_url == str(tmp_path / "clips" / "a.mp4")


def test_health_can_be_switched_off(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL + "    health: false\n").camera("cam-1").health is None


def test_secrets_from_the_environment_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    config = load(
        tmp_path,
        """\
        site: {id: demo}
        broker:
          host: ${BROKER:-localhost}
          port: ${PORT}
          username: u
          password_file: password
        cameras:
          - {id: a, url: "rtsp://u:${PASS}@h/1"}
        """,
        {"PASS": "p@ss", "PORT": "8883"},
    )
    assert config.broker.host == "localhost"
    assert config.broker.port == 8883
    assert config.broker.password is not None
    assert config.broker.password.get_secret_value() == "s3cret"
    assert config.camera("a").stream.analysed_url == "rtsp://u:p@ss@h/1"
    assert "s3cret" not in repr(config)
    assert "p@ss" not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("scenarios:", "scenario:", "5: cameras[0].scenario: unknown key; did you mean 'scenarios'?", id="key of a camera"),
        pytest.param("fire: {}", "fire: {raise_aftr: 3s}", "5: cameras[0].scenarios.fire.raise_aftr: unknown key; did you mean 'raise_after'?", id="key of a scenario"),
        pytest.param("fire:", "fier:", "5: cameras[0].scenarios.fier: scenario 'fier' is not installed; expected one of ", id="scenario"),
        pytest.param("{id: demo}", "{id: demo, timezon: UTC}", "1: site.timezon: unknown key; did you mean 'timezone'?", id="key of the site"),
        pytest.param("{id: demo}", "{id: demo, timezone: Chengdu}", "1: site.timezone: expected an IANA time zone such as Asia/Shanghai, found 'Chengdu'", id="time zone"),
        pytest.param("{id: demo}", "{id: 'a/b'}", "1: site.id: expected an identifier", id="identifier"),
        pytest.param("site: {id: demo}", "broker: {}", "1: site: is missing", id="no site"),
        pytest.param("fire: {}", "fire: {raise_after: soon}", "5: cameras[0].scenarios.fire.raise_after: expected a duration such as 90s, 5m or 1h, found 'soon'", id="duration"),
        pytest.param("fire: {}", "fire: {min_ratio: 2}", "5: cameras[0].scenarios.fire.min_ratio: should be less than or equal to 1, found 2", id="range"),
        pytest.param("fire: {}", "illegal_parking: {zones: {kerb: []}}", "5: cameras[0].scenarios.illegal_parking.zones.kerb: expected a polygon of at least 3 points, found 0", id="empty polygon"),
        pytest.param("fire: {}", "illegal_parking: {zones: {kerb: [[0, 0], [1, 1], [1, 0], [0, 1]]}}", "5: cameras[0].scenarios.illegal_parking.zones.kerb: expected a polygon with an area whose sides do not cross", id="crossed polygon"),
        pytest.param("fire: {}", "illegal_parking: {zones: {kerb: [[0, 0], [640, 0], [1, 1]]}}", "5: cameras[0].scenarios.illegal_parking.zones.kerb: expected relative coordinates from 0 to 1, found [640.0, 0.0]", id="pixels"),
        pytest.param("    url: rtsp://10.0.0.1/stream\n", "", "3: cameras[0]: expected a url (or detect and record), found none", id="no url"),
        pytest.param("fire: {}", "fire: 3s", "5: cameras[0].scenarios.fire: expected parameters as a mapping, found '3s'", id="no mapping"),
        pytest.param("site: {id: demo}", "site: {id: demo", "2: is not valid YAML: ", id="no YAML"),
        pytest.param("site: {id: demo}", "site: {id: demo}\nsite: {id: two}", "2: site: stands twice; the first is in line 1", id="twice"),
        pytest.param("rtsp://10.0.0.1/stream", "rtsp://u:${NOPE}@h/1", "4: cameras[0].url: environment variable NOPE is not set", id="unset variable"),
        pytest.param("url: rtsp://10.0.0.1/stream", "url_file: nowhere", "4: cameras[0].url_file: secret file ", id="no secret file"),
        pytest.param("id: cam-1", "id: 5", "3: cameras[0].id: ", id="number as id"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    assert problem(tmp_path, MINIMAL.replace(old, new)).startswith(expected)


def test_several_mistakes_are_all_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, MINIMAL.replace("fire: {}", "fire: {raise_after: soon}") + "    grd: x\n")
    assert len(caught.value.problems) == 2


def test_two_cameras_of_one_name(tmp_path: Path) -> None:
    text = MINIMAL + "  - {id: cam-1, url: rtsp://h/2}\n"
    assert problem(tmp_path, text).startswith("6: cameras[1].id: 'cam-1' is taken by ")


def test_no_cameras(tmp_path: Path) -> None:
    line = problem(tmp_path, "site: {id: demo}\ncameras: []\n")
    assert line == "2: cameras: expected at least one camera, found none"


def test_a_missing_or_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(tmp_path / "picture")


def test_an_error_never_shows_a_secret(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "rtsp://10.0.0.1/stream", "'rtsp://admin:hunter2@10.0.0.1/x'\n    loop: true"
    )
    assert "hunter2" not in problem(tmp_path, text)
    text = MINIMAL + "broker: {password: [hunter2]}\n"
    assert "hunter2" not in problem(tmp_path, text)


@pytest.mark.parametrize("grid", ["a+b", "town//3", "/town", "town/#"])
def test_a_grid_that_cannot_be_a_topic_is_said_at_once(tmp_path: Path, grid: str) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        f"site: {{id: demo}}\ncameras: [{{id: gate, url: rtsp://h/1, grid: '{grid}'}}]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"cameras.yaml:2: cameras\[0\]\.grid: found"):
        load_config(file, {})


@pytest.mark.parametrize(
    ("mute", "expected"),
    [
        (
            "camera: cam-2",
            "5: storm.mutes[0].camera: there is no camera 'cam-2'; did you mean 'cam-1'?",
        ),
        (
            "scenario: fires",
            "5: storm.mutes[0].scenario: there is no scenario 'fires'; did you mean 'fire'?",
        ),
        (
            "scenario: zzz",
            "5: storm.mutes[0].scenario: there is no scenario 'zzz'; expected one of",
        ),
    ],
)
def test_a_mute_of_what_there_is_not_is_refused(tmp_path: Path, mute: str, expected: str) -> None:
    text = """\
        site: {{id: demo}}
        cameras: [{{id: cam-1, url: rtsp://h/1, scenarios: {{fire: {{}}}}}}]
        storm:
          mutes:
            - {mute}
              windows: ["07:00-09:00"]
        """
    assert problem(tmp_path, text.format(mute=mute)).startswith(expected)
    for known in ("camera: cam-1", "scenario: fire", "scenario: camera_health"):
        assert load(tmp_path, text.format(mute=known)).storm.mutes


@pytest.mark.parametrize(
    ("title", "language"), [({"zh": "门"}, "en"), ({"en": "Door", "zh": ""}, "zh"), (None, "zh")]
)
def test_a_scenario_without_a_title_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: object, language: str
) -> None:
    members = {"id": "door"} | ({} if title is None else {"title": title})
    door = type("Door", (Scenario,), members)
    point = SimpleNamespace(name="door", value="plugin:Door", load=lambda: door)
    monkeypatch.setattr(scenario, "entry_points", lambda group: [point])  # noqa: ARG005
    said = problem(tmp_path, MINIMAL.replace("fire", "door"))
    assert said.startswith(
        "5: cameras[0].scenarios.door: scenario 'door': plugin:Door has no title"
    )
    assert f"in {language!r}, expected" in said
