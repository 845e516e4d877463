"""Weighted mean of checkpoints of one architecture: `python -m models.training.average OUT.pt A.pt=0.3 B.pt=0.7`.

The mean of weights along a training run tends to generalise better than its end (Izmailov et al. 2018, SWA), and the
mean with the weights it started from keeps what fine-tuning forgets (Wortsman et al. 2022, WiSE-FT).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch

__all__ = ["average"]


def average(parts: Mapping[Path, float], out: Path) -> None:
    """Write the mean of Ultralytics checkpoints with the given weights; all else is as in the last one.

    Raises:
        ValueError: the weights do not sum to one.
    """
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise ValueError(f"found weights that sum to {sum(parts.values()):g}, expected 1")
    # Checkpoints hold a pickled model: only such of one's own are to be given here.
    loaded = [torch.load(path, map_location="cpu", weights_only=False) for path in parts]
    models = [(part.get("ema") or part["model"]).float() for part in loaded]
    states = [model.state_dict() for model in models]
    mean = {
        key: sum(share * state[key] for share, state in zip(parts.values(), states, strict=True))
        if value.is_floating_point()
        else value
        for key, value in states[-1].items()
    }
    models[-1].load_state_dict(mean)
    torch.save({**loaded[-1], "model": models[-1].half(), "ema": None, "optimizer": None}, out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Average checkpoints")
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="+", metavar="FILE=SHARE")
    arguments = parser.parse_args()
    pairs = (part.rpartition("=") for part in arguments.parts)
    average({Path(file): float(share) for file, _, share in pairs}, arguments.out)


if __name__ == "__main__":
    main()
