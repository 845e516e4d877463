"""Average two checkpoints of one run: `python -m models.training.average EARLIER.pt LATER.pt OUT.pt`.

The mean of weights along one training run tends to generalise better than its end (Izmailov et al. 2018, SWA).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

__all__ = ["average"]


def average(earlier: Path, later: Path, out: Path) -> None:
    """Write the mean of two Ultralytics checkpoints of one architecture; all else is as in `later`."""
    # Checkpoints hold a pickled model: only such of one's own are to be given here.
    parts = [torch.load(path, map_location="cpu", weights_only=False) for path in (earlier, later)]
    models = [(part.get("ema") or part["model"]).float() for part in parts]
    states = [model.state_dict() for model in models]
    mean = {
        key: (states[0][key] + value) / 2 if value.is_floating_point() else value
        for key, value in states[1].items()
    }
    models[1].load_state_dict(mean)
    torch.save({**parts[1], "model": models[1].half(), "ema": None, "optimizer": None}, out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Average two checkpoints of one run")
    for name in ("earlier", "later", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    average(arguments.earlier, arguments.later, arguments.out)


if __name__ == "__main__":
    main()
