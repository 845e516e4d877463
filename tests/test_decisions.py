"""`gridwatch decisions`: the records of the rules, read beside a running daemon."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alerts.rules import Decision
from alerts.store import Batch, Store
from gridwatch.cli import app
from pipeline.exceptions import ConfigError, GridwatchError

CONFIGURATION = """\
site: {{id: demo, language: en, timezone: Asia/Shanghai}}
storage: {{folder: {folder}}}
cameras:
  - {{id: gate, url: "rtsp://h/1", scenarios: {{fire: {{}}}}}}
  - {{id: lane, url: "rtsp://h/2"}}
"""


def decision(camera: str, scenario: str, code: str, age_s: float) -> Decision:
    t = time.time() - age_s
    outcome = code if code in ("raised", "cleared") else "suppressed"
    return Decision.model_validate(
        {
            "outcome": outcome,
            "code": code,
            "reason": f"because of {code}",
            "camera_id": camera,
            "scenario": scenario,
            "subject": "zone:a",
            "since": t - 3,
            "t": t,
            "held_s": 2.5,
            "known_s": 3.0,
            "ratio": 0.8333,
            "parameters": {"raise_after": 3.0},
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "cameras.yaml"
    made.write_text(CONFIGURATION.format(folder=tmp_path / "state"), encoding="utf-8")
    return made


@pytest.fixture
def stored(file: Path) -> Path:
    records = [
        decision("gate", "fire", "too_short", 90_000.0),
        decision("gate", "fire", "raised", 600.0),
        decision("lane", "illegal_parking", "gap", 400.0),
        decision("gate", "fire", "cooldown", 200.0),
    ]
    with Store(file.parent / "state" / "tickets.sqlite") as store:
        store.commit(Batch(time.time(), decisions=records)).result()
    return file


def codes(file: Path, *options: str) -> list[str]:
    done = CliRunner().invoke(app, ["decisions", str(file), "--json", *options])
    assert done.exit_code == 0, done.output
    return [json.loads(line)["code"] for line in done.output.splitlines()]


def test_records_are_told_in_their_order_and_filtered(stored: Path) -> None:
    assert codes(stored) == ["too_short", "raised", "gap", "cooldown"]
    assert codes(stored, "--camera", "gate", "--outcome", "suppressed") == ["too_short", "cooldown"]
    assert codes(stored, "--scenario", "illegal_parking") == ["gap"]
    assert codes(stored, "--since", "1h") == ["raised", "gap", "cooldown"]
    tomorrow = datetime.fromtimestamp(time.time() + 2 * 86_400, UTC).date().isoformat()
    assert codes(stored, "--since", tomorrow) == []
    assert codes(stored, "--limit", "2") == ["gap", "cooldown"], "the newest"


def test_a_table_says_what_came_of_a_candidate_and_why(stored: Path) -> None:
    english = CliRunner().invoke(app, ["decisions", str(stored), "--outcome", "suppressed"]).output
    for word in ("suppressed", "too_short", "lane", "2.5 s", "because of cooldown"):
        assert word in english
    assert "because of raised" not in english
    chinese = CliRunner().invoke(app, ["decisions", str(stored), "--lang", "zh"]).output
    assert "未告警" in chinese


def test_reading_changes_nothing_while_the_engine_writes(stored: Path) -> None:
    with Store(stored.parent / "state" / "tickets.sqlite") as engine:
        before = engine.decision_counts()
        assert len(codes(stored)) == 4
        assert engine.decision_counts() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--camera", "gat"], "gate, lane"), (["--since", "yesterday"], "a duration such as 30d")],
)
def test_a_wrong_filter_is_named(stored: Path, options: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, ["decisions", str(stored), *options])
    assert isinstance(done.exception, ConfigError)
    assert expected in str(done.exception)


def test_without_a_store_it_says_so_and_makes_none(file: Path) -> None:
    done = CliRunner().invoke(app, ["decisions", str(file)])
    assert isinstance(done.exception, GridwatchError)
    assert "does not exist" in str(done.exception)
    assert not (file.parent / "state").exists()
