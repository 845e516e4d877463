"""`gridwatch tickets export --yolo`: what people decided about alarms, as training sets of the models that raised them.

One folder per model, as `models.training` and Ultralytics read it: pictures as they were kept as evidence, which have
been through the privacy masks, and YOLO label lines.

* A *confirmed* alarm gives its box. Other things in the picture have no label, so it is complete for no class.
* A *false alarm* gives an empty label: nothing of the scenario's kind is there, a hard negative for it alone.
* A reported *miss* shows something that nobody has drawn a box around: its picture lies in `unlabelled/`.

Whatever a person should look at before anybody trains on it stands in `needs_review.csv`. All pictures of one camera
are one group and go to the same side of the split: near-duplicates never cross it. `manifest.yaml` tells
`models.training` what is complete; the plain `data.yaml` cannot, and takes every empty label for a whole one.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console

from alerts.accuracy import Miss
from alerts.evidence import EvidenceStore
from alerts.store import Store
from alerts.tickets import Box, Evidence, Outcome, Ticket, TicketState
from gridwatch.accuracy_view import since_of
from gridwatch.config import Config, load_config
from pipeline.analyse.scenario import load_scenario
from pipeline.analyse.weights import WeightsEntry, load_registry
from pipeline.exceptions import ConfigError, EvidenceError, ScenarioError
from pipeline.observation import RelativeBox

__all__ = ["Exported", "export_training_set", "print_export", "run_export", "split_of"]

VAL_SHARE = 10  # one camera in ten is validation, as in models.training
PAGE = 500  # tickets read at a time

# What a scenario is about, by the classes of its model: a false alarm shows none of these.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "ebike_in_elevator": ("ebike",),
    "fire": ("fire", "smoke"),
    # A parked car that is allowed to stand is a car: its picture says nothing against any class.
    "illegal_parking": (),
}
_NAMES = {"flame": "fire"}
_COLUMNS = ("file", "source", "group", "split", "scenario", "ticket", "time", "flags")


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        pictures: Number by (model, source); sources are ``confirmed``, ``false_alarm`` and ``missed``.
        left_out: Number by reason.
    """

    pictures: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Set:
    """One model's folder while it is filled."""

    entry: WeightsEntry
    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)
    review: list[dict[str, str]] = field(default_factory=list)


def split_of(group: str) -> str:
    """Which side of the split a group's pictures are on; the same in every export."""
    digest = hashlib.sha256(group.encode()).digest()[0]
    return "val" if digest % VAL_SHARE == 0 else "train"


def run_export(
    config: Config,
    folder: Path,
    *,
    since_t: float | None = None,
    models: Sequence[str] = (),
    simulated: bool = False,
) -> Exported:
    """Export from the host's store and evidence folder; for the rest see `export_training_set`."""
    registry = load_registry(Path(config.runtime.registry) if config.runtime.registry else None)
    evidence = EvidenceStore(config.evidence, config.state_folder() / "evidence")
    with Store(config.database_url(), read_only=True) as store:
        return export_training_set(
            _disposed(store, since_t),
            store.misses(since_t),
            evidence.folder,
            registry,
            folder,
            models=models,
            simulated=simulated,
        )


def print_export(
    file: Path, folder: Path, *, since: str | None, models: Sequence[str], simulated: bool
) -> None:
    """Export from a cameras.yaml and print what was written; for the errors see `export_training_set`."""
    config = load_config(file)
    since_t = None if since is None else since_of(since, time.time(), config.timezone)
    done = run_export(config, folder, since_t=since_t, models=models, simulated=simulated)
    console = Console(highlight=False, soft_wrap=True)
    for (model, source), number in sorted(done.pictures.items()):
        console.print(f"{folder / model}: {number} × {source}", markup=False)
    for reason, number in sorted(done.left_out.items()):
        console.print(f"left out: {number} × {reason}", style="dim", markup=False)
    if done.pictures:
        console.print(
            "Look through needs_review.csv before anybody trains on these.", style="yellow"
        )
    else:
        console.print("no pictures to train on: nothing was written", style="yellow")


def export_training_set(
    tickets: Iterable[Ticket],
    misses: Iterable[Miss],
    evidence: Path,
    registry: Mapping[str, WeightsEntry],
    folder: Path,
    *,
    models: Sequence[str] = (),
    simulated: bool = False,
) -> Exported:
    """Write the training sets.

    Args:
        tickets: Those without the outcome confirmed or false alarm are left out.
        misses: Reported ones.
        evidence: The evidence folder.
        registry: Models by name; their classes number the labels.
        folder: New or empty; one folder per model is made in it.
        models: Only these; all by default.
        simulated: Take the tickets of simulated pictures instead of the real ones.

    Raises:
        ConfigError: if the folder is not empty or a model is not registered.
        EvidenceError: if something cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is not empty, expected a new folder")
    for name in models:
        if name not in registry:
            raise ConfigError(
                f"--model {name}: is not registered, expected one of {', '.join(sorted(registry))}"
            )
    done = Exported()
    sets: dict[str, _Set] = {}
    root = evidence.resolve()
    try:
        for ticket in tickets:
            reason = _refused(ticket, simulated=simulated)
            if (chosen := _set_for(ticket.analyse.model, registry, models, folder, sets)) is None:
                reason = reason or "no such model"
            picture = None if reason else _picture(ticket.evidence, root)
            if reason or chosen is None or picture is None:
                done.left_out[reason or "no picture left"] += 1
                continue
            source = _add(chosen, ticket, picture)
            done.pictures[chosen.entry.name, source] += 1
        for miss in misses:
            chosen = _set_for(_model_of(miss.scenario), registry, models, folder, sets)
            kept = (root / miss.picture).resolve() if miss.picture else None
            if chosen is None or miss.simulated != simulated:
                done.left_out["no such model" if chosen is None else "simulated or not"] += 1
            elif kept is None or not kept.is_relative_to(root) or not kept.is_file():
                done.left_out["no picture left"] += 1
            else:
                _add_miss(chosen, miss, kept)
                done.pictures[chosen.entry.name, "missed"] += 1
        for made in sets.values():
            _finish(made)
    except OSError as error:
        raise EvidenceError(f"{error.filename or folder}: {error.strerror}") from error
    return done


def _disposed(store: Store, since_t: float | None) -> Iterator[Ticket]:
    before: str | None = None
    while page := store.tickets(
        states=[TicketState.DISPOSED], raised_from=since_t, before_id=before, limit=PAGE
    ):
        yield from page
        before = page[-1].id


def _set_for(
    model: str | None,
    registry: Mapping[str, WeightsEntry],
    models: Sequence[str],
    folder: Path,
    sets: dict[str, _Set],
) -> _Set | None:
    if model is None or (models and model not in models):
        return None
    if (entry := registry.get(model)) is None or entry.task != "detect":
        return None
    if model not in sets:
        made = folder / model
        for name in ("images", "labels", "unlabelled"):
            (made / name).mkdir(parents=True)
        sets[model] = _Set(entry, made)
    return sets[model]


def _refused(ticket: Ticket, *, simulated: bool) -> str | None:
    if ticket.simulated != simulated:
        return "simulated or not"
    if ticket.dispose.outcome not in (Outcome.CONFIRMED, Outcome.FALSE_ALARM):
        return "neither confirmed nor false alarm"
    return None


def _picture(evidence: Iterable[Evidence], root: Path) -> Path | None:
    """The plain picture of the alarm, never one with boxes drawn in, nor a person's photo, which has no masks."""
    for item in evidence:
        if item.kind != "picture" or item.path.endswith("-boxes.jpg"):
            continue
        path = (root / item.path).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256:
            return path
    return None


def _add(made: _Set, ticket: Ticket, picture: Path) -> str:
    outcome = ticket.dispose.outcome
    source = str(outcome)
    lines: list[str] = []
    if outcome is Outcome.CONFIRMED:
        lines = [line for box in ticket.analyse.boxes if (line := _line(made.entry, ticket, box))]
        if len(lines) < max(1, len(ticket.analyse.boxes)):
            _review(made, ticket, picture, "a confirmed alarm without box or class: draw its box")
    else:
        _review(made, ticket, picture, "a false alarm: is nothing of the kind in the picture?")
    name = f"{ticket.id}.jpg"
    shutil.copyfile(picture, made.folder / "images" / name)
    label = made.folder / "labels" / f"{ticket.id}.txt"
    label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    group = f"{ticket.site}/{ticket.camera.id}"
    made.rows.append(
        {
            "file": f"images/{name}",
            # By scenario too: what a false alarm is a negative for depends on it.
            "source": f"{source}_{ticket.scenario}",
            "group": group,
            "split": split_of(group),
            "scenario": ticket.scenario,
            "ticket": ticket.id,
            "time": ticket.capture.time.isoformat(),
            "flags": "" if lines or outcome is Outcome.FALSE_ALARM else "needs_review",
        }
    )
    return source


def _add_miss(made: _Set, miss: Miss, picture: Path) -> None:
    name = f"{miss.id}.jpg"
    shutil.copyfile(picture, made.folder / "unlabelled" / name)
    made.review.append(
        {
            "file": f"unlabelled/{name}",
            "ticket": "",
            "scenario": miss.scenario,
            "camera": miss.camera,
            "outcome": "missed",
            "note": miss.note,
            "why": "a reported miss: draw its box and move it to images/",
        }
    )


def _review(made: _Set, ticket: Ticket, picture: Path, why: str) -> None:
    disposed = ticket.dispose.disposed
    made.review.append(
        {
            "file": f"images/{ticket.id}{picture.suffix}",
            "ticket": ticket.id,
            "scenario": ticket.scenario,
            "camera": ticket.camera.id,
            "outcome": str(ticket.dispose.outcome),
            "note": disposed.note if disposed is not None else "",
            "why": why,
        }
    )


def _line(entry: WeightsEntry, ticket: Ticket, box: Box) -> str | None:
    """A YOLO label line; None where the class is not known or is none of the model's."""
    detail = ticket.analyse.detail
    targets = TARGETS.get(ticket.scenario, ())
    only = targets[0] if len(targets) == 1 else ""
    for name in (box.label, detail.get("class"), detail.get("kind"), only):
        named = _NAMES.get(str(name), str(name))
        if name and named in entry.classes:
            return f"{entry.classes.index(named)} {_centred(box.xyxy)}"
    return None


def _centred(box: RelativeBox) -> str:
    x1, y1, x2, y2 = box
    return f"{(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}"


def _model_of(scenario: str) -> str | None:
    try:
        return load_scenario(scenario).model
    except ScenarioError:
        return None


def _finish(made: _Set) -> None:
    _write_csv(made.folder / "images.csv", _COLUMNS, made.rows)
    review = ("file", "ticket", "scenario", "camera", "outcome", "note", "why")
    _write_csv(made.folder / "needs_review.csv", review, made.review)
    for split in ("train", "val"):
        # What nobody has looked at is trained on by nobody: not even as a negative.
        chosen = [r for r in made.rows if r["split"] == split and r["flags"] != "needs_review"]
        text = "".join(f"./{row['file']}\n" for row in chosen)
        (made.folder / f"{split}.txt").write_text(text, encoding="utf-8")
    names = dict(enumerate(made.entry.classes))
    data = {"path": ".", "train": "train.txt", "val": "val.txt", "names": names}
    _write_yaml(made.folder / "data.yaml", data)
    sources = {row["source"]: row["scenario"] for row in made.rows}
    complete = {
        source: [c for c in TARGETS.get(scenario, ()) if c in made.entry.classes]
        for source, scenario in sorted(sources.items())
        if source.startswith(Outcome.FALSE_ALARM)
    }
    entry = {
        "path": made.entry.name,
        "class_map": names,
        "complete": {**complete, "*": []},
        "skip_flags": ["needs_review"],
    }
    manifest = {"name": made.entry.name, "classes": list(made.entry.classes), "sets": [entry]}
    _write_yaml(made.folder / "manifest.yaml", manifest)


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_yaml(file: Path, document: object) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    file.write_text(text, encoding="utf-8")
