"""Assemble the data set of one model from the sources that its manifest names.

The result is an Ultralytics data set (`data.yaml`, `images/`, `labels/`, lists) beside `items.csv`, which says for
each picture where it came from, its group, and which classes are completely labelled. Class ids `n + k` in training
labels are *ignore regions* of class `k` (n = number of classes): see `masked.py`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from models.training.items import Box, Copy, Item, Polygon
from models.training.manifest import Manifest, ManifestError, SourceSet, load_manifest
from models.training.masks import polygons, read_mask

__all__ = [
    "Box",
    "Item",
    "add_pseudo",
    "assemble",
    "read_boxes",
    "read_items",
    "read_splits",
    "without_leaks",
]

VAL_SHARE = 10  # one group in ten of a set without its own split is validation
PICTURES = {".webp", ".jpg", ".jpeg", ".png"}

Teacher = Callable[[Path], Sequence["Box"]]
Make = Callable[[Path, Sequence["Box"], int, Path], Copy]
Composer = Callable[[Sequence["Item"]], Make | None]


def read_boxes(path: Path, class_map: dict[int, int]) -> tuple[Box, ...]:
    """Boxes of a YOLO label file under the model's class ids; classes not mapped are dropped."""
    if not path.is_file():
        return ()
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 5:
            raise ManifestError(f"{path}:{number}: found {len(fields)} fields, expected 5")
        class_id = class_map.get(int(fields[0]))
        if class_id is not None:
            boxes.append(Box(class_id, *(float(value) for value in fields[1:])))
    return tuple(boxes)


def read_items(
    manifest: Manifest,
    data: Path,
    renders: Path | None = None,
    splits: Mapping[str, str] | None = None,
) -> list[Item]:
    """All pictures that the manifest selects, in a fixed order.

    Args:
        manifest: what to take.
        data: the folder of the sources.
        renders: the folder of rendered sets.
        splits: group → `train` or `val`, over what the lists say: to cross-validate, or to train on all in the end.

    Raises:
        ManifestError: a folder or a label is not as expected, or no picture is of a group in `splits`.
    """
    items: list[Item] = []
    for source_set in manifest.sets:
        root = renders if source_set.bare else data
        folder = root / source_set.path if root is not None else None
        if folder is None or not (folder / "images").is_dir():
            if source_set.optional:
                continue
            raise ManifestError(f"{manifest.name}: {source_set.path}: no images/ folder found")
        items.extend(_set_items(manifest, source_set, folder, splits or {}))
    known = {item.group.rpartition("/")[2] for item in items}
    if unknown := sorted(set(splits or {}) - known):
        raise ManifestError(f"{manifest.name}: found no picture of group {', '.join(unknown)}")
    return items


def _set_items(
    manifest: Manifest, source_set: SourceSet, folder: Path, splits: Mapping[str, str]
) -> Iterator[Item]:
    ids = {name: number for number, name in enumerate(manifest.classes)}
    class_map = {old: ids[new] for old, new in source_set.class_map.items()}
    extra = _extra_boxes(manifest.folder / source_set.extra, ids) if source_set.extra else {}
    rows = _bare_rows(folder) if source_set.bare else _listed_rows(folder)
    column = source_set.group_column
    rows = [{**row, "split": splits.get(row[column], row["split"])} for row in rows]
    rows = _thinned([row for row in rows if _selected(row, source_set)], source_set.every)
    copies = _spread(source_set.compose, sum(row["split"] == "train" for row in rows))
    for row in rows:
        picture = folder / row["file"]
        label = folder / "labels" / f"{picture.stem}.txt"
        complete = _complete(row, source_set, manifest.classes)
        train = row["split"] == "train"
        mask = folder / row["mask"] if source_set.masks else None
        parts = folder / "masks" / f"{picture.stem}.png" if source_set.bare else None
        boxes = () if source_set.boxless else read_boxes(label, class_map)
        yield Item(
            picture=picture,
            source=row["source"],
            group=f"{source_set.path}/{row[source_set.group_column]}",
            split=row["split"],
            boxes=boxes + tuple(extra.get(row["file"], ())),
            complete=frozenset(ids[name] for name in complete),
            repeat=source_set.repeat if train else 1,
            compose=next(copies) if train else 0,
            pseudo=frozenset(ids[name] for name in source_set.pseudo),
            polygons=() if mask is None else polygons(read_mask(mask), class_map[255]),
            mask=mask,
            backdrop=bool(source_set.backdrops) and picture.match(source_set.backdrops),
            parts=parts if parts is not None and parts.is_file() else None,
        )


def _extra_boxes(path: Path, ids: dict[str, int]) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), 2):
            if row["class"] not in ids:
                raise ManifestError(
                    f"{path}:{number}: found class {row['class']}, expected {list(ids)}"
                )
            x1, y1, x2, y2 = (float(row[key]) for key in ("x1", "y1", "x2", "y2"))
            box = Box(ids[row["class"]], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            boxes.setdefault(row["file"], []).append(box)
    return boxes


def read_splits(options: Sequence[str]) -> dict[str, str]:
    """`GROUP=train` and `GROUP=val` as a mapping.

    Raises:
        ManifestError: one of them is something else.
    """
    splits = {}
    for option in options:
        group, _, part = option.partition("=")
        if not group or part not in ("train", "val"):
            raise ManifestError(f"--split {option}: expected GROUP=train or GROUP=val")
        splits[group] = part
    return splits


def _listed_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _bare_rows(folder: Path) -> list[dict[str, str]]:
    """Rows for a folder without a list: each picture is a scene of its own (rendered from its own seed)."""
    rows = []
    for picture in sorted((folder / "images").iterdir()):
        if picture.suffix.lower() not in PICTURES:
            continue
        digest = hashlib.sha256(picture.stem.encode()).digest()[0]
        split = "val" if digest % VAL_SHARE == 0 else "train"
        file = f"images/{picture.name}"
        rows.append({"file": file, "source": folder.name, "group": picture.stem, "split": split})
    return rows


def _selected(row: dict[str, str], source_set: SourceSet) -> bool:
    flags = set(row.get("flags", "").split(";"))
    wanted = not source_set.only_sources or row["source"] in source_set.only_sources
    return wanted and not flags & set(source_set.skip_flags)


def _thinned(rows: Sequence[dict[str, str]], every: int) -> list[dict[str, str]]:
    """Each n-th training picture and all of validation: what is measured does not depend on thinning."""
    train = [row for row in rows if row["split"] == "train"]
    return train[::every] + [row for row in rows if row["split"] != "train"]


def _spread(total: int, count: int) -> Iterator[int]:
    """`count` whole numbers that differ by one at most and add up to `total`."""
    return (total * (n + 1) // count - total * n // count for n in range(count))


def _complete(row: dict[str, str], source_set: SourceSet, classes: tuple[str, ...]) -> set[str]:
    if source_set.bare:
        return set(classes)
    by_source = source_set.complete
    complete = set(by_source.get(row["source"], by_source.get("*", ())))
    flags = set(row.get("flags", "").split(";"))
    for flag, names in source_set.ignore_flags.items():
        complete -= set(names) if flag in flags else set()
    for condition, names in source_set.ignore_columns.items():
        column, _, value = condition.partition("=")
        complete -= set(names) if row.get(column) == value else set()
    return complete


def without_leaks(items: Sequence[Item]) -> list[Item]:
    """Leave out validation pictures whose group is in training too.

    Pictures of a group are near-copies: they would be measured on what the model was trained on.
    """
    trained = {item.group for item in items if item.split == "train"}
    return [item for item in items if item.split == "train" or item.group not in trained]


def add_pseudo(item: Item, taught: Sequence[Box], overlap: float = 0.5) -> Item:
    """Add a teacher's boxes of the item's `pseudo` classes where no labelled box lies already."""
    fresh = [
        box
        for box in taught
        if box.class_id in item.pseudo - item.complete
        and all(_iou(box, known) < overlap for known in item.boxes)
    ]
    return replace(item, boxes=item.boxes + tuple(fresh))


def _iou(a: Box, b: Box) -> float:
    width = min(a.cx + a.width / 2, b.cx + b.width / 2) - max(
        a.cx - a.width / 2, b.cx - b.width / 2
    )
    height = min(a.cy + a.height / 2, b.cy + b.height / 2) - max(
        a.cy - a.height / 2, b.cy - b.height / 2
    )
    both = max(width, 0.0) * max(height, 0.0)
    return both / (a.width * a.height + b.width * b.height - both + 1e-9)


def assemble(
    manifest: Manifest,
    data: Path,
    out: Path,
    *,
    renders: Path | None = None,
    teacher: Teacher | None = None,
    composer: Composer | None = None,
    splits: Mapping[str, str] | None = None,
) -> list[Item]:
    """Write the data set of a model to `out` and return its items; `splits` is that of `read_items`.

    Pictures are linked, not copied. Training pictures alone get pseudo-labels, ignore regions and composed
    copies; validation keeps the labels as they are, and measuring skips classes that are not complete.
    """
    items = without_leaks(read_items(manifest, data, renders, splits))
    count = len(manifest.classes)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for split in lists:
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
        (out / "labels" / split).mkdir(parents=True, exist_ok=True)
    if teacher is not None:
        items = [
            add_pseudo(item, teacher(item.picture))
            if item.split == "train" and item.pseudo
            else item
            for item in items
        ]
    make = composer(items) if composer is not None else None
    for number, item in enumerate(items):
        train = item.split == "train"
        ignored = () if not train else tuple(sorted(set(range(count)) - item.complete))
        if ignored and manifest.task == "segment":
            raise ManifestError(
                f"{item.picture}: found incomplete classes, a surface must be complete"
            )
        link = out / "images" / item.split / f"{number:05d}_{item.picture.name}"
        _link(link, item.picture)
        labels = item.polygons if manifest.task == "segment" else item.boxes
        _write_labels(out, item.split, link.stem, labels, ignored, count)
        if item.mask is not None:
            _link(out / "masks" / item.split / f"{link.stem}.png", item.mask)
        lists[item.split] += [str(link.absolute())] * item.repeat
        for copy in range(item.compose):
            if make is None:
                break
            made = link.with_name(f"{number:05d}_{item.picture.stem}_c{copy:02d}.jpg")
            inside = make(item.picture, item.boxes, number * 1000 + copy, made)
            unsure = ignored if inside.unsure is None else sorted(inside.unsure)
            _write_labels(out, item.split, made.stem, inside.boxes, unsure, count)
            lists[item.split].append(str(made.absolute()))
    _write_lists(manifest, out, lists, items)
    return items


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def _write_labels(
    out: Path,
    split: str,
    stem: str,
    shapes: Sequence[Box | Polygon],
    ignored: Sequence[int],
    count: int,
) -> None:
    lines = [shape.line() for shape in shapes]
    lines += [Box(count + class_id, 0.5, 0.5, 1.0, 1.0).line() for class_id in ignored]
    text = "".join(f"{line}\n" for line in lines)
    (out / "labels" / split / f"{stem}.txt").write_text(text, encoding="utf-8")


def _write_lists(
    manifest: Manifest, out: Path, lists: dict[str, list[str]], items: Sequence[Item]
) -> None:
    for split, files in lists.items():
        (out / f"{split}.txt").write_text("".join(f"{f}\n" for f in files), encoding="utf-8")
    names = list(manifest.classes)
    if manifest.task == "detect":
        names += [f"ignore {name}" for name in manifest.classes]
    description = {
        "path": str(out.resolve()),
        "train": "train.txt",
        "val": "val.txt",
        "names": dict(enumerate(names)),
        "classes": len(manifest.classes),
    }
    (out / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    with (out / "items.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["number", "picture", "source", "group", "split", "complete"])
        for number, item in enumerate(items):
            complete = " ".join(manifest.classes[k] for k in sorted(item.complete))
            writer.writerow(
                [number, item.picture.name, item.source, item.group, item.split, complete]
            )


def main() -> None:
    """`python -m models.training.assemble MANIFEST DATA OUT [--renders R] [--teacher W] [--split GROUP=PART]`."""
    parser = argparse.ArgumentParser(description="Assemble the data set of one model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("data", type=Path, help="data root")
    parser.add_argument("out", type=Path)
    parser.add_argument("--renders", type=Path, help="root of rendered sets")
    parser.add_argument("--teacher", type=Path, help="weights that label incomplete classes")
    parser.add_argument("--compose", action="store_true", help="make augmented copies")
    parser.add_argument(
        "--split", action="append", default=[], metavar="GROUP=PART", help="over what the lists say"
    )
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.manifest)
    teacher: Teacher | None = None
    composer: Composer | None = None
    if arguments.teacher is not None:
        from models.training.teacher import make_teacher  # torch is needed for this alone

        teacher = make_teacher(arguments.teacher, manifest)
    if arguments.compose:
        from models.training.compose import cabin_composer as composer
    items = assemble(
        manifest,
        arguments.data,
        arguments.out,
        renders=arguments.renders,
        teacher=teacher,
        composer=composer,
        splits=read_splits(arguments.split),
    )
    for split in ("train", "val"):
        part = [item for item in items if item.split == split]
        ids = [box.class_id for item in part for box in item.boxes]
        ids += [polygon.class_id for item in part for polygon in item.polygons]
        counts = {name: ids.count(k) for k, name in enumerate(manifest.classes)}
        print(split, len(part), "pictures", counts)


if __name__ == "__main__":
    main()
