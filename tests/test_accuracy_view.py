"""`gridwatch accuracy`: what it prints, what it ends with, and what it reads."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from alerts.accuracy import Fact
from alerts.store import Batch, Store, _facts
from alerts.tickets import Outcome
from gridwatch.accuracy_view import run_accuracy, since_of
from gridwatch.cli import app
from pipeline.exceptions import ConfigError, StoreError
from tests.test_accuracy import T0, fact, miss, some

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = T0 + 86400


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        f"site: {{id: town, language: zh}}\nstorage: {{folder: {tmp_path}}}\n"
        "cameras:\n  - {id: lift, url: rtsp://h/1, scenarios: [fire]}\n",
        encoding="utf-8",
    )
    facts = [
        *some(249, 0),
        *some(95, 5, scenario="illegal_parking", camera="lane", grid="town/9/1"),
        fact(Outcome.DUPLICATE),
        fact(None),
        *some(0, 3, simulated=True),
    ]
    keep(tmp_path, facts)
    return file


def keep(folder: Path, facts: list[Fact]) -> None:
    rows = [asdict(replace(f, ticket_id=f"{n}")) for n, f in enumerate(facts)]
    with Store(folder / "tickets.sqlite") as store:
        store._submit(lambda connection: connection.execute(_facts.insert(), rows)).result()
        store.commit(Batch(T0, misses=[miss()])).result()


def test_the_table_says_what_holds_in_both_languages(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_accuracy(config, by="scenario", now_t=NOW)
    chinese = capsys.readouterr().out
    assert "目标 98.8%" in chinese
    lines = {line.split()[0]: line for line in chinese.splitlines() if line.strip()}
    assert "100.00%" in lines["fire"]
    assert "249/249" in lines["fire"]
    assert "已证实" in lines["fire"]
    assert "1 (≤ 99.6%)" in lines["fire"]
    assert "未达标" in lines["illegal_parking"]
    assert "344/349" in lines["合计"]
    run_accuracy(config, by="grid", level=2, language="en", now_t=NOW)
    english = capsys.readouterr().out
    assert "town/12" in english
    assert "proven" in english
    assert "missed" in english


def test_json_and_csv_carry_the_same_figures(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_accuracy(config, by="camera", form="json", now_t=NOW)
    document = json.loads(capsys.readouterr().out)
    assert document["overall"]["decided"] == 349
    assert document["overall"]["undecided"] == 1
    assert document["overall"]["verdict"] == "missed"
    assert document["responses"]["disposed"]["n"] == 350
    assert [row["name"] for row in document["rows"]] == ["lane", "lift"]
    run_accuracy(config, by="camera", form="csv", now_t=NOW)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, one in zip(rows, document["rows"], strict=True):
        assert float(row["accuracy"]) == one["accuracy"]
        assert float(row["lower"]) == one["lower"]
        assert row["camera"] == one["name"]


def test_simulated_tickets_are_only_counted_alone(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_accuracy(config, by="scenario", form="json", simulated=True, now_t=NOW)
    document = json.loads(capsys.readouterr().out)
    assert document["simulated"] is True
    assert (document["overall"]["false_alarms"], document["overall"]["confirmed"]) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 0),
        (["--gate", "met"], 1),
        (["--gate", "met", "--target", "0.98"], 0),
        (["--gate", "proven", "--target", "0.98"], 1),
        (["--gate", "proven", "--target", "0.96"], 0),
        (["--gate", "met", "--since", "2027-01-01"], 1),  # nothing decided proves nothing
        (["--json", "--csv"], 2),
        (["--since", "yesterday"], 1),
    ],
)
def test_the_status_is_the_gate(config: Path, arguments: list[str], status: int) -> None:
    result = CliRunner().invoke(app, ["accuracy", str(config), *arguments])
    assert result.exit_code == status
    if "yesterday" in arguments:
        assert isinstance(result.exception, ConfigError)


def test_since_is_a_date_here_or_a_time_before_now() -> None:
    local = datetime(2026, 11, 1, tzinfo=SHANGHAI).timestamp()
    assert since_of("2026-11-01", NOW, SHANGHAI) == local
    assert since_of("2026-11-01T06:30", NOW, SHANGHAI) == local + 6.5 * 3600
    assert since_of("2026-10-31T16:00:00+00:00", NOW, SHANGHAI) == local
    assert since_of("30d", NOW, SHANGHAI) == NOW - 30 * 86400
    with pytest.raises(ConfigError, match="yesterday: expected a date"):
        since_of("yesterday", NOW, SHANGHAI)


def test_weeks_are_only_compared_where_both_are_counted(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for since, shown in ((None, True), ("21d", True), ("3d", False)):
        run_accuracy(config, by="week", since=since, now_t=NOW, language="en")
        assert ("This week so far" in capsys.readouterr().out) is shown


def test_without_a_store_it_says_so(config: Path) -> None:
    for file in config.parent.glob("tickets.sqlite*"):
        file.unlink()
    with pytest.raises(StoreError, match="does not exist"):
        run_accuracy(config, by="scenario")
