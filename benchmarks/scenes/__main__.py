"""`python -m benchmarks.scenes`: render simulated pictures with exact labels, or a simulated clip with its events."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from benchmarks.scenes.camera import Label, numbered, yolo_line
from benchmarks.scenes.clips import Clip, Picture, encode, label_yaml
from benchmarks.scenes.sensor import Sensor, burn_text, jpeg, png

__all__ = ["main"]

SCENES = {
    "cabin": "an elevator cabin: e-bikes, bicycles, prams, wheelchairs, people (vehicle classes)",
    "street": "a kerb with a no-parking zone seen from a pole: traffic, people, riders (vehicle classes)",
    "yard_fire": "a courtyard with bins and a shed that may burn (fire classes)",
    "river": "a river with banks, and a discharge (clips only)",
}

_EPILOG = (
    """examples:
  200 labelled cabin pictures, seeds 10000..10199 (an interrupted run goes on where it stopped):
    python -m benchmarks.scenes render cabin --seed 10000 --stills 200 --out renders/vehicles
  a 20 s clip and its label file:
    python -m benchmarks.scenes render street --seed 3 --clip --seconds 20 --fps 10 --out clips

scenes:
"""
    + "\n".join(f"  {name:10} {text}" for name, text in SCENES.items())
    + """

Everything is simulated and procedural: a seed always gives the same scene. Seeds 1..99 are for demo clips,
500..599 for the hard cases, 10000 and above for training pictures, so that no model has seen what it is shown.
Rendering needs Blender's `bpy` (Python 3.11, in a virtual environment of its own) and, for clips, ffmpeg:
see benchmarks/scenes/README.md.
"""
)


class Scene(Protocol):
    """What a scene's module offers; one without stills lacks the first."""

    def still(self, seed: int, *, size: tuple[int, int]) -> tuple[Picture, list[Label], Sensor]:
        """One picture as rendered, its labels, and the camera to degrade it with."""

    def clip(self, seed: int, *, seconds: float, fps: float, size: tuple[int, int]) -> Clip:
        """A clip."""


def _write(path: Path, data: bytes) -> None:
    """Write atomically: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _stills(scene: Scene, name: str, seed: int, count: int, out: Path, width: int) -> None:
    began, done = time.monotonic(), 0
    for k in range(seed, seed + count):
        stem = f"sim_{name}_{k:06d}"
        picture_path = out / "images" / f"{stem}.jpg"
        if picture_path.exists():
            continue
        picture, labels, sensor = scene.still(k, size=(width, width * 9 // 16))
        rng = np.random.default_rng([k, 9])
        picture = burn_text(sensor.expose(picture, rng), sensor.text)
        height = picture.shape[0]
        lines = "".join(yolo_line(label, width, height) + "\n" for label in labels)
        # The labels first: where a picture is, its labels are.
        _write(out / "labels" / f"{stem}.txt", lines.encode())
        _write(out / "masks" / f"{stem}.png", png(numbered(labels, height, width)))
        _write(picture_path, jpeg(picture, sensor.jpeg_quality))
        done += 1
        pace = (time.monotonic() - began) / done
        left = (seed + count - 1 - k) * pace
        print(
            f"\r{name} {k - seed + 1}/{count}  {pace:.1f} s a picture  {left / 60:.0f} min left ",
            end="",
            flush=True,
        )
    print()


def _film(clip: Clip, total: int, out: Path) -> None:
    began = time.monotonic()

    def progress(n: int) -> None:
        pace = (time.monotonic() - began) / n
        print(
            f"\r{clip.name} frame {n}/{total}  {pace:.1f} s a frame  {(total - n) * pace / 60:.0f} min left ",
            end="",
            flush=True,
        )

    path = out / f"{clip.name}.mp4"
    encode(clip, path, progress=progress)
    print()
    _write(out / f"{clip.name}.yaml", label_yaml(clip, path.name).encode())


def _suite(names: list[str], out: Path, width: int) -> int:
    """Render hard cases that are not there yet; an unknown name gives 2."""
    cases: dict[str, tuple[Callable[[tuple[int, int]], Clip], float]] = {}
    for module in ("cabin_cases", "street_cases", "yard_cases", "river_cases"):
        scene = importlib.import_module(f"benchmarks.scenes.{module}")
        cases |= {name: (make, scene.SECONDS * scene.FPS) for name, make in scene.CASES.items()}
    if unknown := [name for name in names if name not in cases]:
        print(f"found {', '.join(unknown)}, expected some of {', '.join(cases)}", file=sys.stderr)
        return 2
    for name, (make, frames) in cases.items():
        if (names and name not in names) or (out / f"{name}.yaml").exists():
            continue
        _film(make((width, width * 9 // 16)), round(frames), out)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenes",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    render = verbs.add_parser(
        "render",
        help="render stills or a clip",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render.add_argument("scene", choices=SCENES)
    render.add_argument(
        "--seed",
        type=int,
        required=True,
        help="seed of the clip, or of the first still (the others count up)",
    )
    render.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder: gets images/ and labels/, or NAME.mp4 and NAME.yaml",
    )
    kind = render.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--stills", type=int, metavar="N", help="render N labelled pictures (YOLO lines)"
    )
    kind.add_argument(
        "--clip", action="store_true", help="render a clip (H.264) and its label file"
    )
    render.add_argument(
        "--width",
        type=int,
        help="picture width in pixels, 16:9 (default 416 for stills, 640 for clips)",
    )
    render.add_argument(
        "--seconds", type=float, default=20.0, help="length of the clip (default 20)"
    )
    render.add_argument(
        "--fps", type=float, default=10.0, help="frames per second of the clip (default 10)"
    )
    suite = verbs.add_parser(
        "suite", help="render the hard cases of the regression suite, those that are missing"
    )
    suite.add_argument("names", nargs="*", help="some of them only")
    suite.add_argument(
        "--out", type=Path, required=True, help="folder: gets NAME.mp4 and NAME.yaml"
    )
    suite.add_argument("--width", type=int, default=480, help="picture width in pixels, 16:9")
    args = parser.parse_args(argv)
    try:
        importlib.import_module("bpy")
    except ImportError:
        print("bpy is not installed here: see benchmarks/scenes/README.md", file=sys.stderr)
        return 2
    if args.verb == "suite":
        return _suite(args.names, args.out, args.width)
    scene = cast(Scene, importlib.import_module(f"benchmarks.scenes.{args.scene}"))
    if args.stills:
        if not hasattr(scene, "still"):
            parser.error(f"scene {args.scene} makes clips only: its model is not a detector")
        _stills(scene, args.scene, args.seed, args.stills, args.out, args.width or 416)
    else:
        width = args.width or 640
        size = (width, width * 9 // 16)
        clip = scene.clip(args.seed, seconds=args.seconds, fps=args.fps, size=size)
        _film(clip, round(args.seconds * args.fps), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
