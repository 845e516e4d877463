"""The training recipe up to the point where torch begins: manifests, data set assembly, figures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from models.training.assemble import (
    _spread,
    add_pseudo,
    assemble,
    read_items,
    read_splits,
    without_leaks,
)
from models.training.average import average
from models.training.compose import Composer, CutOut, cabin_composer, cut_out, foreground, warp
from models.training.evaluate import (
    Picture,
    average_precision,
    bootstrap,
    exact_interval,
    image_level,
    iou_matrix,
)
from models.training.gallery import mistakes
from models.training.items import Box, Copy, Item
from models.training.manifest import ManifestError, load_manifest
from models.training.masks import polygons
from models.training.surface import SurfacePicture, report_surface
from models.training.workflow import choose_thresholds, entry_of, manifest_path

cv2 = pytest.importorskip("cv2")

TRAINING = Path(__file__).parents[1] / "models" / "training"
COLUMNS = ["file", "source", "group", "split", "flags", "smoke_complete"]


def write_manifest(path: Path, **changes: object) -> Path:
    content = {
        "name": "toy",
        "classes": ["cat", "dog"],
        "sets": [
            {"path": "pets", "class_map": {4: "dog", 7: "cat"}, "complete": {"*": ["cat", "dog"]}}
        ],
    }
    path.write_text(yaml.safe_dump({**content, **changes}), encoding="utf-8")
    return path


def write_set(folder: Path, rows: list[tuple[dict[str, str], str]]) -> None:
    """A labelled folder: each row of `images.csv` with the text of its label file."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(7)
    with (folder / "images.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        for number, (row, label) in enumerate(rows):
            name = f"p{number}"
            image = rng.integers(0, 255, (90, 160, 3), np.uint8)
            cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
            (folder / "labels" / f"{name}.txt").write_text(label)
            writer.writerow({"file": f"images/{name}.png", **row})


def row(**changes: str) -> dict[str, str]:
    return {"source": "web", "group": "g0", "split": "train", **changes}


@pytest.mark.parametrize("name", ["fire", "vehicles", "water"])
def test_shipped_manifests_are_well_formed(name: str) -> None:
    manifest = load_manifest(TRAINING / f"{name}.yaml")
    assert manifest.name == name
    assert manifest.sets


def test_vehicles_keep_their_class_order() -> None:
    classes = load_manifest(TRAINING / "vehicles.yaml").classes
    assert classes == ("person", "bicycle", "ebike", "car", "bus", "truck", "wheelchair")


def test_the_coco_teacher_never_labels_an_ebike() -> None:
    manifest = load_manifest(TRAINING / "vehicles.yaml")
    assert "ebike" not in manifest.teacher.values()
    assert all("ebike" not in source_set.pseudo for source_set in manifest.sets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, r"unknown keys \['epochs'\]"),
        ({"sets": [{"class_map": {}}]}, r"sets\[0\]: .*expected at least 'path'"),
        ({"sets": [{"path": "a", "pathh": "b"}]}, r"unknown keys \['pathh'\]"),
        (
            {"sets": [{"path": "a", "class_map": {0: "cow"}}]},
            r"class_map: unknown classes \['cow'\]",
        ),
        ({"sets": [{"path": "a", "complete": {"*": ["cow"]}}]}, "complete: unknown classes"),
        ({"teacher": {"kitten": "cow"}}, "teacher: unknown classes"),
        ({"rivals": {"cat": ["cow"]}}, "rivals: unknown classes"),
    ],
)
def test_a_malformed_manifest_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        load_manifest(write_manifest(tmp_path / "toy.yaml", **changes))


def test_classes_are_mapped_and_others_dropped(tmp_path: Path) -> None:
    write_set(
        tmp_path / "data" / "pets",
        [(row(), "4 0.5 0.5 0.2 0.2\n7 0.3 0.3 0.1 0.1\n1 0.5 0.5 0.1 0.1\n")],
    )
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml"))
    (item,) = read_items(manifest, tmp_path / "data")
    assert item.boxes == (Box(1, 0.5, 0.5, 0.2, 0.2), Box(0, 0.3, 0.3, 0.1, 0.1))


def test_a_broken_label_line_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "pets", [(row(), "4 0.5 0.5 0.2\n")])
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml"))
    with pytest.raises(ManifestError, match=r"p0\.txt:1: found 4 fields, expected 5"):
        read_items(manifest, tmp_path / "data")


def test_incomplete_classes_become_ignore_regions_in_training_only(tmp_path: Path) -> None:
    write_set(
        tmp_path / "data" / "pets",
        [
            (row(group="a"), "4 0.5 0.5 0.2 0.2\n"),
            (row(group="b", source="dogs"), ""),
            (row(group="c", flags="cat_hidden;night"), ""),
            (row(group="d", smoke_complete="no"), ""),
            (row(group="e", source="dogs", split="val"), ""),
        ],
    )
    sets = [
        {
            "path": "pets",
            "class_map": {4: "dog"},
            "complete": {"*": ["cat", "dog"], "dogs": ["dog"]},
            "ignore_flags": {"cat_hidden": ["cat"]},
            "ignore_columns": {"smoke_complete=no": ["dog"]},
        }
    ]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    out = tmp_path / "out"
    items = assemble(manifest, tmp_path / "data", out)
    assert [sorted(item.complete) for item in items] == [[0, 1], [1], [1], [0], [1]]
    labels = {path.stem: path.read_text() for path in (out / "labels").rglob("*.txt")}
    whole = "0.500000 0.500000 1.000000 1.000000\n"
    assert labels["00000_p0"] == "1 0.500000 0.500000 0.200000 0.200000\n"
    assert labels["00001_p1"] == f"2 {whole}"
    assert labels["00002_p2"] == f"2 {whole}"
    assert labels["00003_p3"] == f"3 {whole}"
    assert labels["00004_p4"] == ""
    names = yaml.safe_load((out / "data.yaml").read_text())["names"]
    assert names == {0: "cat", 1: "dog", 2: "ignore cat", 3: "ignore dog"}


def test_repeat_applies_to_training_and_lists_name_existing_pictures(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "pets", [(row(group="a"), ""), (row(group="b", split="val"), "")])
    sets = [{"path": "pets", "repeat": 3}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    assemble(manifest, tmp_path / "data", tmp_path / "out")
    train = (tmp_path / "out" / "train.txt").read_text().splitlines()
    val = (tmp_path / "out" / "val.txt").read_text().splitlines()
    assert (len(train), len(set(train)), len(val)) == (3, 1, 1)
    assert all(Path(name).is_file() for name in train + val)


@given(st.integers(1, 40), st.integers(0, 90))
def test_copies_are_spread_evenly_and_none_is_lost(pictures: int, copies: int) -> None:
    shares = list(_spread(copies, pictures))
    assert (len(shares), sum(shares)) == (pictures, copies)
    assert max(shares) - min(shares) <= 1


def test_what_a_set_weighs_does_not_hang_on_how_many_of_its_pictures_are_in_training(
    tmp_path: Path,
) -> None:
    write_set(tmp_path / "data" / "pets", [(row(group=f"g{k % 3}"), "") for k in range(9)])
    sets = [{"path": "pets", "compose": 8}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    for kept_back in ({}, {"g0": "val"}, {"g0": "val", "g2": "val"}):
        items = read_items(manifest, tmp_path / "data", splits=kept_back)
        assert sum(item.compose for item in items) == 8
        assert not any(item.compose for item in items if item.split == "val")


def test_a_missing_set_is_an_error_unless_optional(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    sets = [{"path": "renders", "bare": True, "optional": True}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    assert read_items(manifest, tmp_path / "data") == []
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml"))
    with pytest.raises(ManifestError, match="pets: no images/ folder found"):
        read_items(manifest, tmp_path / "data")


def test_the_split_of_renders_is_stable_when_more_are_rendered(tmp_path: Path) -> None:
    folder = tmp_path / "renders" / "cabins" / "images"
    folder.mkdir(parents=True)
    sets = [{"path": "cabins", "class_map": {0: "cat"}, "bare": True}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    splits = []
    for seeds in (range(60), range(60, 80)):
        for seed in seeds:
            cv2.imwrite(str(folder / f"cabin_{seed:03d}.png"), np.zeros((8, 8, 3), np.uint8))
        items = read_items(manifest, tmp_path, tmp_path / "renders")
        splits.append({item.group: item.split for item in items})
    assert len(splits[0]) == 60
    assert splits[0].items() <= splits[1].items()
    assert set(splits[0].values()) == {"train", "val"}
    assert all(item.complete == {0, 1} for item in items)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["train", "val"]))))
def test_no_group_is_trained_on_and_measured(pairs: list[tuple[int, str]]) -> None:
    items = [
        Item(Path(f"{k}.png"), "web", f"g{group}", split, (), frozenset())
        for k, (group, split) in enumerate(pairs)
    ]
    kept = without_leaks(items)
    trained = {item.group for item in kept if item.split == "train"}
    measured = {item.group for item in kept if item.split == "val"}
    assert not trained & measured
    assert [i for i in kept if i.split == "train"] == [i for i in items if i.split == "train"]


def test_a_teacher_fills_gaps_only() -> None:
    known = Box(0, 0.5, 0.5, 0.4, 0.4)
    item = Item(
        Path("a.png"), "web", "g", "train", (known,), frozenset({1}), pseudo=frozenset({0, 1})
    )
    same = Box(0, 0.5, 0.5, 0.38, 0.4)
    elsewhere = Box(0, 0.1, 0.1, 0.1, 0.1)
    complete_class = Box(1, 0.9, 0.9, 0.1, 0.1)
    unwanted = Box(2, 0.1, 0.9, 0.1, 0.1)
    taught = add_pseudo(item, [same, elsewhere, complete_class, unwanted])
    assert taught.boxes == (known, elsewhere)


def test_warp_moves_a_box_with_its_thing() -> None:
    image = np.zeros((180, 320, 3), np.uint8)
    image[60:120, 200:260] = 255
    box = Box(0, 230 / 320, 90 / 180, 60 / 320, 60 / 180)
    bent, (moved,) = warp(image, [box], degrees=12, bulge=0.2, zoom=1.1)
    rows, columns = np.nonzero(bent[..., 0] > 127)
    assert moved.cx * 320 == pytest.approx((columns.min() + columns.max() + 1) / 2, abs=2)
    assert moved.cy * 180 == pytest.approx((rows.min() + rows.max() + 1) / 2, abs=2)
    assert moved.width * 320 == pytest.approx(np.ptp(columns) + 1, abs=3)
    assert moved.height * 180 == pytest.approx(np.ptp(rows) + 1, abs=3)


def test_warp_drops_what_leaves_the_picture() -> None:
    image = np.zeros((180, 320, 3), np.uint8)
    corner = Box(0, 0.04, 0.06, 0.08, 0.12)
    assert warp(image, [corner], degrees=0, bulge=0, zoom=2.0)[1] == []


def test_composed_copies_are_reproducible(tmp_path: Path) -> None:
    write_set(tmp_path / "cabin", [(row(), ""), (row(), ""), (row(), "")])
    pictures = sorted((tmp_path / "cabin" / "images").iterdir())
    box = Box(2, 0.5, 0.5, 0.45, 0.75)
    item = Item(pictures[0], "web", "g", "train", (box,), frozenset())
    (cut,) = cut_out(item, (2,))
    harmless = replace(cut, class_id=1)
    composer = Composer([cut.image], {2: [cut], 1: [harmless]})
    outs = [tmp_path / f"{k}.jpg" for k in range(3)]
    labels = [
        composer(pictures[0], [box], seed, out).boxes
        for seed, out in zip((5, 5, 6), outs, strict=True)
    ]
    assert labels[0] == labels[1]
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()
    assert all(b.cx - b.width / 2 + 1e-9 >= 0 and b.cx + b.width / 2 <= 1 + 1e-9 for b in labels[0])


def test_a_rendered_thing_is_cut_along_its_outline(tmp_path: Path) -> None:
    write_set(tmp_path / "renders", [(row(), "")])
    (picture,) = (tmp_path / "renders" / "images").iterdir()
    height, width = cv2.imread(str(picture)).shape[:2]
    numbers = np.zeros((height, width), np.uint8)
    cv2.circle(numbers, (width // 2, height // 2), height // 3, 2, cv2.FILLED)
    cv2.imwrite(str(tmp_path / "parts.png"), numbers)
    side = 2 * (height // 3) / height
    person, bicycle = (
        Box(0, 0.5, 0.5, 1.0, 1.0),
        Box(1, 0.5, 0.5, side * height / width, side),
    )
    item = Item(
        picture, "sim", "g", "train", (person, bicycle), frozenset(), parts=tmp_path / "parts.png"
    )
    (cut,) = cut_out(item, (1,))
    assert (cut.class_id, cut.origin) == (1, "render")
    assert cut.scale == pytest.approx(side)
    centre = cut.alpha.shape[0] // 2
    assert cut.alpha[centre, centre] == pytest.approx(1.0)
    assert cut.alpha[:3, :3].max() == pytest.approx(0.0)  # a circle leaves the corners out


def test_a_cabin_is_emptied_of_its_labelled_things(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    wall = rng.integers(60, 120, (180, 320, 3), dtype=np.uint8)
    items = []
    for number in range(
        5
    ):  # it stands left of the middle in most pictures: a plain median would keep it
        image = wall.copy()
        x = 200 if number == 4 else 60
        image[60:150, x : x + 80] = 255
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), image)
        box = Box(2, (x + 40) / 320, 105 / 180, 80 / 320, 90 / 180)
        items.append(Item(path, "cabin", "cabin/a", "train", (box,), frozenset(), compose=1))
    harmless = Item(
        items[0].picture, "cabin", "cabin/a", "train", (Box(1, 0.4, 0.5, 0.4, 0.7),), frozenset()
    )
    composer = cabin_composer([*items, harmless])
    assert composer is not None
    (empty,) = composer.empties
    assert np.abs(empty.astype(int) - wall.astype(int)).max() == 0


def test_what_is_pasted_without_an_ebike_is_a_bicycle_most_often(tmp_path: Path) -> None:
    write_set(tmp_path / "cabin", [(row(), "")])
    (picture,) = (tmp_path / "cabin" / "images").iterdir()
    thing = CutOut(np.full((80, 80, 3), 200, np.uint8), np.ones((80, 80), np.float32), 2)
    pool = {key: [replace(thing, class_id=key)] for key in (0, 1, 2, 6)}
    composer = Composer([np.zeros((360, 640, 3), np.uint8)], pool)
    labels = [
        {box.class_id for box in composer(picture, [], seed, tmp_path / "out.jpg").boxes}
        for seed in range(120)
    ]
    without = [found for found in labels if found and 2 not in found]
    assert len(without) > 20
    assert sum(1 in found for found in without) > len(without) / 2
    assert any(2 in found for found in labels)


def test_of_a_composed_copy_only_limbs_of_riders_are_not_labelled(tmp_path: Path) -> None:
    write_set(tmp_path / "cabin", [(row(), "")])
    (picture,) = (tmp_path / "cabin" / "images").iterdir()
    thing = CutOut(np.full((80, 80, 3), 200, np.uint8), np.ones((80, 80), np.float32), 2)
    composer = Composer([np.zeros((360, 640, 3), np.uint8)], {2: [thing], 1: [replace(thing, class_id=1)]})  # fmt: skip
    wheelchair = Box(6, 0.5, 0.5, 0.4, 0.4)
    copies = [composer(picture, [wheelchair], k, tmp_path / "out.jpg") for k in range(40)]
    of_the_picture = [copy for copy in copies if any(b.class_id == 6 for b in copy.boxes)]
    assert 0 < len(of_the_picture) < 20
    for copy in copies:
        assert copy.unsure == (None if copy in of_the_picture else {0})


def test_a_copy_is_ignored_where_it_is_unsure_itself(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "pets", [(row(), "")])
    sets = [{"path": "pets", "complete": {"*": ["cat"]}, "compose": 2}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    copies = iter([Copy([Box(1, 0.5, 0.5, 0.2, 0.2)], frozenset({0})), Copy([])])

    def make(picture: Path, _boxes: Sequence[Box], _seed: int, out: Path) -> Copy:
        out.write_bytes(picture.read_bytes())
        return next(copies)

    assemble(manifest, tmp_path / "data", tmp_path / "out", composer=lambda _: make)
    labels = sorted((tmp_path / "out" / "labels" / "train").glob("*_c*.txt"))
    found = [[int(line.split()[0]) for line in path.read_text().splitlines()] for path in labels]
    assert found == [[1, 2], [3]]  # a dog, and cats unsure; dogs unsure as in the picture


def test_a_composer_needs_ebikes_and_harmless_things() -> None:
    thing = CutOut(np.zeros((80, 80, 3), np.uint8), np.ones((80, 80), np.float32), 2)
    with pytest.raises(ValueError, match="found 1 e-bikes, 0 other kinds"):
        Composer([thing.image], {2: [thing]})


def test_foreground_is_what_differs_from_the_empty_scene() -> None:
    empty = np.full((100, 100, 3), 90, np.uint8)
    scene = empty.copy()
    scene[30:70, 40:80] = 200
    alpha = foreground(scene, empty)
    assert alpha[40:60, 50:70].min() > 0.99
    assert alpha[:20].max() < 0.01


def test_a_hole_in_a_surface_stays_empty() -> None:
    mask = np.zeros((120, 160), np.bool_)
    mask[20:100, 20:140] = True
    mask[45:75, 60:100] = False
    (outline,) = polygons(mask, 0)
    points = np.array([[round(x * 160), round(y * 120)] for x, y in outline.points], np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(filled, [points], 1)
    both, either = (filled.astype(bool) & mask).sum(), (filled.astype(bool) | mask).sum()
    assert both / either > 0.97
    assert not filled[50:70, 65:95].any()


def test_pieces_of_a_surface_come_largest_first_without_specks() -> None:
    mask = np.zeros((100, 100), np.bool_)
    mask[5:15, 5:15] = True
    mask[40:90, 10:90] = True
    mask[97:99, 97:99] = True
    pieces = polygons(mask, 0)
    assert [min(y for _, y in piece.points) >= 0.4 for piece in pieces] == [True, False]


def test_a_split_can_be_turned_round(tmp_path: Path) -> None:
    rows = [(row(group="a"), ""), (row(group="b", split="val"), ""), (row(group="c"), "")]
    write_set(tmp_path / "data" / "pets", rows)
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml"))
    turned = read_splits(["a=val", "b=train"])
    items = read_items(manifest, tmp_path / "data", splits=turned)
    assert {item.group.rpartition("/")[2]: item.split for item in items} == {
        "a": "val", "b": "train", "c": "train",
    }  # fmt: skip
    with pytest.raises(ManifestError, match="found no picture of group d"):
        read_items(manifest, tmp_path / "data", splits={"d": "val"})
    with pytest.raises(ManifestError, match="--split a=both: expected GROUP=train or GROUP=val"):
        read_splits(["a=both"])


def test_every_thins_training_but_not_validation(tmp_path: Path) -> None:
    rows = [(row(group=f"t{k}"), "") for k in range(6)]
    rows += [(row(group=f"v{k}", split="val"), "") for k in range(3)]
    write_set(tmp_path / "data" / "pets", rows)
    sets = [{"path": "pets", "every": 3}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    splits = [item.split for item in read_items(manifest, tmp_path / "data")]
    assert splits.count("train") == 2
    assert splits.count("val") == 3


def test_boxes_added_by_hand_join_the_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "pets", [(row(), "4 0.5 0.5 0.2 0.2\n")])
    (tmp_path / "extra.csv").write_text(
        "file,class,x1,y1,x2,y2\nimages/p0.png,cat,0.1,0.2,0.3,0.6\n"
    )
    sets = [{"path": "pets", "class_map": {4: "dog"}, "extra": "extra.csv"}]
    manifest = load_manifest(write_manifest(tmp_path / "toy.yaml", sets=sets))
    (item,) = read_items(manifest, tmp_path / "data")
    dog, cat = item.boxes
    assert dog.class_id == 1
    assert cat.class_id == 0
    assert cat.cx == pytest.approx(0.2)
    assert cat.height == pytest.approx(0.4)


def test_exact_interval_of_a_share() -> None:
    low, high = exact_interval(27, 31)
    assert (round(low, 2), round(high, 2)) == (0.70, 0.96)
    assert exact_interval(0, 0) == (0.0, 1.0)


def test_bootstrap_over_one_group_knows_nothing_and_over_equal_ones_is_sure() -> None:
    assert np.isnan(bootstrap(["a"] * 4, lambda _: 1.0, 10)).all()
    assert bootstrap(["a", "b", "c"], lambda _: 0.5, 10) == (0.5, 0.5)


def picture(found: list[list[float]], truth: list[list[float]], complete: set[int]) -> Picture:
    return Picture(
        np.array(found, np.float32).reshape(-1, 6),
        np.array(truth, np.float32).reshape(-1, 5),
        frozenset(complete),
    )


def test_iou_of_half_overlapping_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert iou_matrix(a, b)[0].tolist() == pytest.approx([1 / 3, 0.0])


def test_average_precision_of_perfect_missing_and_double_detections() -> None:
    truth = [[0.0, 0, 10, 10, 0]]
    perfect = picture([[0, 0, 10, 10, 0.9, 0]], truth, {0})
    missing = picture([], truth, {0})
    double = picture([[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0]], truth, {0})
    assert average_precision([perfect], 0) == pytest.approx((1.0, 1.0, 1))
    assert average_precision([missing], 0) == (0.0, 0.0, 1)
    assert average_precision([perfect, missing], 0)[0] == pytest.approx(51 / 101)
    assert average_precision([double], 0)[0] == pytest.approx(1.0)
    loose = picture([[0, 0, 10, 7.2, 0.9, 0]], truth, {0})  # IoU 0.72: right at 5 of 10 steps
    assert average_precision([loose], 0) == pytest.approx((1.0, 0.5, 1))


def test_a_class_is_measured_only_where_it_is_complete() -> None:
    false_alarm = [[0.0, 0, 10, 10, 0.9, 0]]
    incomplete = picture(false_alarm, [], set())
    positive = picture(false_alarm, [[0, 0, 10, 10, 0]], {0})
    negative = picture(false_alarm, [], {0})
    assert average_precision([positive, incomplete], 0)[0] == pytest.approx(1.0)
    level = image_level([positive, negative, incomplete], 0, 0.5)
    assert (level["positives"], level["negatives"], level["true"], level["false"]) == (1, 1, 1, 1)
    assert level["precision"] == 0.5
    assert image_level([positive, negative], 0, 0.95)["recall"] == 0.0


def level(threshold: float, true: int, false: int, positives: int) -> dict[str, float]:
    precision = true / (true + false) if true + false else float("nan")
    return {
        "threshold": threshold,
        "true": true,
        "false": false,
        "precision": precision,
        "recall": true / positives,
    }


def test_thresholds_put_precision_first() -> None:
    figures = {
        "classes": {
            "good": {"levels": [level(0.2, 9, 3, 10), level(0.4, 8, 0, 10), level(0.6, 5, 0, 10)]},
            "poor": {"levels": [level(0.2, 9, 9, 10), level(0.6, 5, 2, 10)]},
            "unseen": {"levels": [level(0.2, 0, 0, 10)]},
        }
    }
    assert choose_thresholds(figures) == {"good": 0.4, "poor": 0.6, "unseen": 0.5}


def test_an_entry_takes_size_and_task_from_the_manifest(tmp_path: Path) -> None:
    weights = tmp_path / "water.onnx"
    weights.write_bytes(b"weights")
    manifest = load_manifest(manifest_path("water"))
    entry = entry_of(manifest, weights, {"water": 0.25}, "trial")
    assert (entry["task"], entry["input_px"]) == ("segment", [320, 320])
    assert entry["file"] == "weights/water.onnx"
    with pytest.raises(ValueError, match="expected one of fire, vehicles, water"):
        manifest_path("boats")


def test_a_gallery_counts_wrong_and_missed_of_complete_classes_only() -> None:
    truth = [[0.0, 0, 10, 10, 0], [50.0, 50, 60, 60, 0]]
    found = [[0.0, 0, 10, 10, 0.9, 0], [20.0, 20, 30, 30, 0.8, 0], [20.0, 20, 30, 30, 0.8, 1]]
    assert mistakes(picture(found, truth, {0}), {0: 0.5, 1: 0.5}) == 2
    assert mistakes(picture(found, truth, {0, 1}), {0: 0.5, 1: 0.5}) == 3


def test_a_published_file_becomes_start_weights_with_the_same_outputs(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="ULTRALYTICS ABSENT: start weights are not checked")
    import onnxruntime
    import torch
    from ultralytics import YOLO

    from models.training.unfold import unfold

    shipped = TRAINING.parent / "weights" / "fire.onnx"
    manifest = load_manifest(TRAINING / "fire.yaml")
    rng = np.random.default_rng(1)
    pictures = [tmp_path / f"{k}.png" for k in range(3)]
    for path in pictures:
        cv2.imwrite(str(path), rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    unfold(shipped, manifest, pictures, tmp_path / "start.pt")
    network = YOLO(str(tmp_path / "start.pt")).model.float().eval()
    blob = rng.random((1, 3, 256, 416), dtype=np.float32)
    with torch.no_grad():
        scores = network(torch.from_numpy(blob))[0].numpy()[:, 4:]
    session = onnxruntime.InferenceSession(str(shipped), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": blob})
    np.testing.assert_allclose(scores, expected[:, 4:], atol=0.01)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    # It normalises again: in training mode the network must not blow up.
    assert all(norm.running_var.min() > 0 for norm in norms)
    assert torch.isfinite(network.train()(torch.from_numpy(blob))["scores"]).all()


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="ULTRALYTICS ABSENT: start weights are not checked")
    from models.training.unfold import unfold

    manifest = load_manifest(TRAINING / "vehicles.yaml")
    with pytest.raises(ValueError, match=r"fire.onnx: model\.23\.cv3\.0\.2\.weight: found shape"):
        unfold(TRAINING.parent / "weights" / "fire.onnx", manifest, [], tmp_path / "start.pt")


def test_start_weights_are_measured_under_our_class_names(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="ULTRALYTICS ABSENT: start weights are not checked")
    import torch
    from ultralytics import YOLO

    from models.training.baseline import baseline

    start = YOLO("yolo11n.yaml")
    start.model.names = {n: "motorcycle" if n == 3 else f"thing {n}" for n in range(80)}
    start.save(tmp_path / "start.pt")
    manifest = load_manifest(TRAINING / "vehicles.yaml")
    baseline(tmp_path / "start.pt", manifest, tmp_path / "ours.pt")
    blob = torch.rand(1, 3, 128, 128)
    scores = []
    for name in ("start.pt", "ours.pt"):
        network = YOLO(str(tmp_path / name)).model.float().eval()
        with torch.no_grad():
            scores.append(network(blob)[0].numpy()[0, 4:])
    theirs, ours = scores
    ebike = manifest.classes.index("ebike")
    np.testing.assert_allclose(ours[ebike], theirs[3], atol=1e-3)
    assert np.delete(ours, ebike, axis=0).max() < 1e-6


def test_an_ignored_class_counts_only_where_a_labelled_thing_lies() -> None:
    pytest.importorskip("ultralytics", reason="ULTRALYTICS ABSENT: the loss is not checked")
    import torch
    from ultralytics import YOLO
    from ultralytics.utils import IterableSimpleNamespace

    from models.training.masked import MaskedDetectionLoss

    model = YOLO("yolo11n.yaml").model
    model.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    count = model.model[-1].nc
    criterion = MaskedDetectionLoss(model)
    batch = {
        "batch_idx": torch.zeros(2),
        "cls": torch.tensor([[2.0], [count + 1.0]]),  # a thing of class 2; class 1 is not labelled
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]),
        "img": torch.rand(1, 3, 128, 128),
    }
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = MaskedDetectionLoss._masked_bce(criterion, scores, targets)
        asked.append((targets, loss))
        return loss

    criterion.bce = spy
    criterion.loss(model.train()(batch["img"]), batch)
    ((targets, loss),) = asked
    thing = targets[0, :, 2] > 0
    assert 0 < int(thing.sum()) < len(thing)
    assert (loss[0, thing, 1] > 0).all()  # what is known to be a 2 is no 1
    assert (loss[0, ~thing, 1] == 0).all()
    assert (loss[0, :, 0] > 0).all()


def network(path: Path, rows: list[list[float]], bias: list[float]) -> Path:
    """A file with one class convolution (two classes) under the name that an export gives it."""
    weight = np.array(rows, np.float16).reshape(2, 2, 1, 1)
    graph = helper.make_graph(
        [],
        "toy",
        [],
        [],
        [
            numpy_helper.from_array(weight, "model.23.cv3.0.2.weight_half"),
            numpy_helper.from_array(np.array(bias, np.float32), "model.23.cv3.0.2.bias"),
            numpy_helper.from_array(np.array([8.0], np.float32), "/model.23/strides"),
        ],
    )
    onnx.save(helper.make_model(graph), str(path))
    return path


def test_the_mean_of_exports_leaves_out_the_classes_that_a_part_does_not_know(
    tmp_path: Path,
) -> None:
    ours = network(tmp_path / "ours.onnx", [[1, 2], [3, 4]], [1, 2])
    start = network(tmp_path / "start.onnx", [[3, 0], [0, 0]], [5, -20])
    average({ours: 0.75, start: 0.25}, tmp_path / "mean.onnx")
    mean = {
        tensor.name: numpy_helper.to_array(tensor).ravel().tolist()
        for tensor in onnx.load(str(tmp_path / "mean.onnx")).graph.initializer
    }
    assert mean["model.23.cv3.0.2.weight_half"] == [1.5, 1.5, 3, 4]
    assert mean["model.23.cv3.0.2.bias"] == [2, 2]
    assert mean["/model.23/strides"] == [8]


def test_a_class_that_no_part_knows_stays_unknown(tmp_path: Path) -> None:
    parts = [network(tmp_path / f"{n}.onnx", [[n, 2], [0, 0]], [1, -20]) for n in (1, 3)]
    average(dict.fromkeys(parts, 0.5), tmp_path / "mean.onnx")
    weight, bias, _ = onnx.load(str(tmp_path / "mean.onnx")).graph.initializer
    assert numpy_helper.to_array(weight).ravel().tolist() == [2, 2, 0, 0]
    assert numpy_helper.to_array(bias).tolist() == [1, -20]


def test_a_file_that_is_no_model_is_named_in_a_line(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("no model at all")
    with pytest.raises(ValueError, match=r"text\.onnx: found no ONNX model, expected a file"):
        average({text: 1.0}, tmp_path / "mean.onnx")
    with pytest.raises(ValueError, match=r"gone\.onnx: cannot be read: No such file"):
        average({tmp_path / "gone.onnx": 1.0}, tmp_path / "mean.onnx")


def test_a_mean_needs_shares_of_one_and_equal_shapes(tmp_path: Path) -> None:
    ours = network(tmp_path / "ours.onnx", [[1, 2], [3, 4]], [1, 2])
    other = network(tmp_path / "other.onnx", [[1, 2], [3, 4]], [1, 2, 3])
    with pytest.raises(ValueError, match=r"sum to 1\.2, expected 1"):
        average({ours: 0.6, other: 0.6}, tmp_path / "mean.onnx")
    with pytest.raises(ValueError, match=r"other.onnx: .*bias: found shape \(3,\), expected"):
        average({ours: 0.5, other: 0.5}, tmp_path / "mean.onnx")


def test_a_camera_with_many_pictures_counts_once_in_the_mean_of_cameras() -> None:
    shares = [("river/a", 40), ("river/a", 60), ("river/a", 50), ("river/b", 100)]
    pictures = [SurfacePicture(both, 100, "river", camera, Path("p")) for camera, both in shares]
    figures = report_surface(pictures)["sources"]["river"]
    assert figures["iou"] == pytest.approx(0.625)
    assert figures["cameras_iou"] == pytest.approx(0.75)
    low, high = figures["cameras_iou_interval"]
    assert (low, high) == (pytest.approx(0.5), pytest.approx(1.0))
