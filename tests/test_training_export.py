"""From outcomes to training sets: right boxes, masked pictures alone, no camera on both sides; and reported misses."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from alerts.accuracy import accuracy
from alerts.evidence import EvidenceStore
from alerts.store import Store
from alerts.tickets import Action, Box, Command, Evidence, Outcome, Ticket, apply, instant
from gridwatch.cli import app
from gridwatch.config import Config, load_config
from gridwatch.misses import moment_of, report_miss
from gridwatch.training_export import export_training_set, run_export, split_of
from models.training.assemble import read_items
from models.training.manifest import load_manifest
from pipeline.analyse.weights import load_registry
from pipeline.exceptions import CommandError, ConfigError
from tests.test_store import T0, make_batch, make_ticket

BOX = (0.1, 0.2, 0.5, 0.6)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        f"site: {{id: town}}\nhost: h1\nstorage: {{folder: {tmp_path / 'state'}}}\n"
        "evidence: {min_free: 0B}\n"
        "cameras:\n  - {id: lift, url: rtsp://h/1, scenarios: [ebike_in_elevator, fire]}\n"
        "  - id: lane\n    url: rtsp://h/2\n    scenarios:\n"
        "      illegal_parking: {zones: {kerb: [[0, 0], [1, 0], [1, 1]]}}\n",
        encoding="utf-8",
    )
    return load_config(file, {})


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with Store(config.database_url()) as opened:
        yield opened


def evidence_of(config: Config) -> EvidenceStore:
    return EvidenceStore(config.evidence, config.state_folder() / "evidence")


def keep(
    config: Config,
    store: Store,
    number: int,
    outcome: Outcome | None,
    *,
    scenario: str = "ebike_in_elevator",
    model: str | None = "vehicles",
    camera: str = "lift",
    boxes: tuple[Box, ...] = (Box(xyxy=BOX, confidence=0.9),),
    **changes: Any,  # noqa: ANN401 - any field of a ticket
) -> Ticket:
    """A stored ticket with a picture in the evidence folder, disposed of with `outcome`."""
    image = np.full((90, 160, 3), (number * 7) % 255, np.uint8)
    pictures, _ = evidence_of(config).save_picture(camera, T0 + number, image, [BOX])
    ticket = make_ticket(number, camera=camera)
    detail = changes.pop("detail", {})
    ticket = ticket.model_copy(
        update={
            "scenario": scenario,
            "analyse": ticket.analyse.model_copy(
                update={"model": model, "boxes": boxes, "detail": detail}
            ),
            "evidence": pictures,
            **changes,
        }
    )
    store.commit(make_batch(ticket)).result()
    if outcome is not None:
        command = Command(
            command_id=f"c{number}",
            ticket_id=ticket.id,
            action=Action.DISPOSE,
            user="w",
            outcome=outcome,
            note="a child's bicycle",
        )
        ticket = apply(ticket, command, T0 + number + 60)
        store.commit(make_batch(ticket)).result()
    return ticket


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_confirmed_alarms_give_boxes_and_false_ones_hard_negatives(
    config: Config, store: Store, tmp_path: Path
) -> None:
    true = keep(config, store, 1, Outcome.CONFIRMED)
    false = keep(config, store, 2, Outcome.FALSE_ALARM)
    car = keep(
        config,
        store,
        3,
        Outcome.CONFIRMED,
        scenario="illegal_parking",
        camera="lane",
        detail={"class": "car"},
    )
    smoke = keep(
        config, store, 4, Outcome.CONFIRMED, scenario="fire", model="fire", detail={"kind": "smoke"}
    )
    for number, outcome in ((5, Outcome.TEST), (6, Outcome.DUPLICATE), (7, None)):
        keep(config, store, number, outcome)
    keep(config, store, 8, Outcome.CONFIRMED, simulated=True)
    done = run_export(config, tmp_path / "out")
    assert done.pictures == {
        ("vehicles", "confirmed"): 2,
        ("vehicles", "false_alarm"): 1,
        ("fire", "confirmed"): 1,
    }
    assert done.left_out == {"neither confirmed nor false alarm": 2, "simulated or not": 1}
    vehicles, fire = tmp_path / "out" / "vehicles", tmp_path / "out" / "fire"

    def label(folder: Path, ticket: Ticket) -> str:
        return (folder / "labels" / f"{ticket.id}.txt").read_text()

    assert label(vehicles, true) == "2 0.300000 0.400000 0.400000 0.400000\n"
    assert label(vehicles, false) == ""
    assert label(vehicles, car).startswith("3 ")
    assert label(fire, smoke).startswith("1 ")
    assert yaml.safe_load((fire / "data.yaml").read_text())["names"] == {0: "fire", 1: "smoke"}
    (review,) = rows(vehicles / "needs_review.csv")
    assert (review["ticket"], review["note"]) == (false.id, "a child's bicycle")
    # The picture is the very one of the evidence, without the boxes that were drawn into the other.
    kept = (vehicles / "images" / f"{true.id}.jpg").read_bytes()
    assert hashlib.sha256(kept).hexdigest() == true.evidence[0].sha256


def test_the_training_recipe_reads_it_and_knows_what_is_complete(
    config: Config, store: Store, tmp_path: Path
) -> None:
    keep(config, store, 1, Outcome.CONFIRMED)
    keep(config, store, 2, Outcome.FALSE_ALARM)
    keep(config, store, 3, Outcome.FALSE_ALARM, scenario="illegal_parking", camera="lane")
    run_export(config, tmp_path / "out")
    manifest = load_manifest(tmp_path / "out" / "vehicles" / "manifest.yaml")
    items = read_items(manifest, tmp_path / "out")
    ebike = manifest.classes.index("ebike")
    found = {item.source: (len(item.boxes), item.complete) for item in items}
    assert found == {
        "confirmed_ebike_in_elevator": (1, frozenset()),
        # No e-bike is in it; of bicycles and persons nothing is known.
        "false_alarm_ebike_in_elevator": (0, frozenset({ebike})),
        "false_alarm_illegal_parking": (0, frozenset()),
    }


def test_no_camera_is_on_both_sides(config: Config, store: Store, tmp_path: Path) -> None:
    for number in range(60):
        keep(config, store, number, Outcome.CONFIRMED, camera=f"camera-{number % 20}")
    run_export(config, tmp_path / "out")
    listed = rows(tmp_path / "out" / "vehicles" / "images.csv")
    sides: dict[str, set[str]] = {}
    for row in listed:
        sides.setdefault(row["group"], set()).add(row["split"])
        assert row["split"] == split_of(row["group"])
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())
    lists = [
        set((tmp_path / "out" / "vehicles" / f"{split}.txt").read_text().split())
        for split in ("train", "val")
    ]
    assert not lists[0] & lists[1]
    assert len(lists[0] | lists[1]) == 60


def test_what_has_no_class_is_reviewed_and_not_trained_on(
    config: Config, store: Store, tmp_path: Path
) -> None:
    keep(config, store, 1, Outcome.CONFIRMED, scenario="illegal_parking", camera="lane")
    keep(config, store, 2, Outcome.CONFIRMED, boxes=())
    run_export(config, tmp_path / "out")
    folder = tmp_path / "out" / "vehicles"
    assert [row["flags"] for row in rows(folder / "images.csv")] == ["needs_review"] * 2
    assert len(rows(folder / "needs_review.csv")) == 2
    assert (folder / "train.txt").read_text() + (folder / "val.txt").read_text() == ""
    assert read_items(load_manifest(folder / "manifest.yaml"), tmp_path / "out") == []


@pytest.mark.parametrize("trouble", ["photo", "gone", "changed", "outside", "no model"])
def test_only_masked_pictures_of_the_evidence_are_taken(
    config: Config, store: Store, tmp_path: Path, trouble: str
) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"somebody's face")
    ticket = keep(config, store, 1, Outcome.CONFIRMED)
    (first, *_) = ticket.evidence
    picture = evidence_of(config).folder / first.path
    fake = first
    if trouble == "photo":
        fake = first.model_copy(update={"kind": "photo"})
    elif trouble == "gone":
        picture.unlink()
    elif trouble == "changed":
        picture.write_bytes(b"another picture")
    elif trouble == "outside":
        digest = hashlib.sha256(secret.read_bytes()).hexdigest()
        path = f"../../{secret.name}"
        fake = Evidence(**{**first.model_dump(), "path": path, "sha256": digest})
    changed = ticket.model_copy(update={"evidence": (fake,)})
    if trouble == "no model":
        changed = ticket.model_copy(
            update={"analyse": ticket.analyse.model_copy(update={"model": None})}
        )
    done = export_training_set(
        [changed], [], evidence_of(config).folder, load_registry(), tmp_path / "out"
    )
    assert done.pictures == {}
    reason = "no such model" if trouble == "no model" else "no picture left"
    assert done.left_out == {reason: 1}


def test_a_folder_with_something_in_it_is_left_alone(config: Config, tmp_path: Path) -> None:
    Store(config.database_url()).close()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty, expected a new folder"):
        run_export(config, tmp_path / "out")
    with pytest.raises(ConfigError, match="--model nothing: is not registered"):
        run_export(config, tmp_path / "new", models=["nothing"])


# Misses


def clip(config: Config, t_from: float, seconds: int) -> Evidence:
    """A clip of one picture a second, each a little brighter than the one before."""
    path = evidence_of(config).clip_path("lift", t_from, "ticket")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.time_base = Fraction(1, 1)
        for n in range(seconds):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * n, np.uint8), "bgr24")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return evidence_of(config).clip(path, t_from, t_from + seconds)


def test_a_miss_is_stored_with_its_picture_and_counts_against_the_recall(
    config: Config, store: Store, tmp_path: Path
) -> None:
    ticket = keep(config, store, 1, Outcome.CONFIRMED)
    shown = ticket.next(T0 + 70, evidence=(*ticket.evidence, clip(config, T0, 10)))
    store.commit(make_batch(shown)).result()
    miss = report_miss(
        config, store, "lift", "ebike_in_elevator", T0 + 6, T0 + 100, by="wang", note="red one"
    )
    assert store.misses() == [miss]
    image = cv2.imread(str(evidence_of(config).folder / miss.picture))
    assert image is not None
    assert abs(float(image.mean()) - 120) < 8  # the picture of the seventh second
    counted = accuracy(store.facts(), misses=store.misses())
    assert (counted.missed, counted.recall) == (1, 0.5)
    done = run_export(config, tmp_path / "out")
    assert done.pictures["vehicles", "missed"] == 1
    folder = tmp_path / "out" / "vehicles"
    assert (folder / "unlabelled" / f"{miss.id}.jpg").is_file()
    assert not (folder / "images" / f"{miss.id}.jpg").exists()
    (review,) = rows(folder / "needs_review.csv")
    assert (review["outcome"], review["note"]) == ("missed", "red one")


def test_a_miss_without_a_clip_is_a_row_alone(config: Config, store: Store) -> None:
    miss = report_miss(config, store, "lift", "fire", T0, T0 + 100, by="wang")
    assert miss.picture == ""
    assert store.misses() == [miss]


def test_what_cannot_have_been_missed_is_refused(config: Config, store: Store) -> None:
    def report(camera: str = "lift", scenario: str = "fire", t: float = T0) -> None:
        report_miss(config, store, camera, scenario, t, T0 + 100, by="wang")

    with pytest.raises(ConfigError, match=r"--camera x: there is none of that id.*lift, lane"):
        report(camera="x")
    with pytest.raises(ConfigError, match="camera lane looks for illegal_parking"):
        report(camera="lane")
    with pytest.raises(CommandError, match="in the future"):
        report(t=T0 + 101)
    report()
    with pytest.raises(CommandError, match="reported already"):
        report()
    assert len(store.misses()) == 1


def test_the_commands(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "cameras.yaml"
    with Store(config.database_url()) as store:
        keep(config, store, 1, Outcome.CONFIRMED)
    arguments = ["--camera", "lift", "--scenario", "fire", "--time", "2023-11-15T06:13:20"]
    done = CliRunner().invoke(app, ["tickets", "miss", str(file), *arguments, "-u", "wang"])
    assert done.exit_code == 0, done.output
    assert "no picture" in done.output
    with Store(config.database_url(), read_only=True) as store:
        (miss,) = store.misses()
    assert (instant(miss.t).isoformat(), miss.by) == ("2023-11-14T22:13:20+00:00", "wang")
    done = CliRunner().invoke(app, ["tickets", "export", str(file), "--yolo", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    assert "1 × confirmed" in done.output
    assert "left out: 1 × no picture left" in done.output
    nothing = ["tickets", "export", str(file), "--yolo", str(tmp_path / "n"), "--simulated"]
    assert "no pictures to train on" in CliRunner().invoke(app, nothing).output
    with pytest.raises(ConfigError, match="expected a moment"):
        moment_of("yesterday", config.timezone)
