"""Surfaces that several props share, and the colours from which paint and clothes are drawn."""

from __future__ import annotations

import numpy as np

from benchmarks.scenes.mesh import Material

__all__ = [
    "BLACK",
    "CHROME",
    "GLASS",
    "PLASTIC",
    "RUBBER",
    "STEEL",
    "cloth",
    "hair",
    "paint",
    "skin",
]

RUBBER = Material((0.06, 0.06, 0.065), 0.85)
PLASTIC = Material((0.09, 0.09, 0.1), 0.55)
BLACK = Material((0.03, 0.03, 0.035), 0.5)
CHROME = Material((0.75, 0.76, 0.78), 0.2, 0.95)
STEEL = Material((0.5, 0.51, 0.53), 0.4, 0.8)
GLASS = Material((0.05, 0.06, 0.07), 0.08, 0.0)

# Paints seen on Chinese e-bikes and cars: mostly black, white, grey, red; some pastel.
_PAINTS = (
    (0.08, 0.08, 0.09), (0.05, 0.05, 0.06), (0.88, 0.88, 0.86), (0.93, 0.93, 0.93), (0.55, 0.56, 0.58),
    (0.62, 0.08, 0.09), (0.72, 0.12, 0.1), (0.1, 0.2, 0.45), (0.15, 0.35, 0.6), (0.3, 0.5, 0.35),
    (0.85, 0.65, 0.7), (0.6, 0.75, 0.82), (0.85, 0.75, 0.2), (0.35, 0.2, 0.14), (0.85, 0.45, 0.12),
)  # fmt: skip
_CLOTHES = (
    (0.07, 0.07, 0.08), (0.1, 0.11, 0.16), (0.2, 0.22, 0.3), (0.35, 0.36, 0.38), (0.6, 0.6, 0.6), (0.85, 0.85, 0.83),
    (0.5, 0.1, 0.12), (0.75, 0.2, 0.18), (0.15, 0.3, 0.2), (0.55, 0.68, 0.8), (0.75, 0.6, 0.4), (0.45, 0.33, 0.25),
    (0.85, 0.7, 0.25), (0.7, 0.45, 0.6), (0.25, 0.4, 0.65),
)  # fmt: skip


def _jitter(
    rng: np.random.Generator, color: tuple[float, float, float]
) -> tuple[float, float, float]:
    r, g, b = np.clip(
        np.asarray(color) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.02, 3), 0.01, 0.97
    )
    return float(r), float(g), float(b)


def paint(rng: np.random.Generator) -> Material:
    """Glossy vehicle paint."""
    return Material(
        _jitter(rng, _PAINTS[rng.integers(len(_PAINTS))]), float(rng.uniform(0.18, 0.5))
    )


def cloth(rng: np.random.Generator) -> Material:
    """Dull fabric."""
    return Material(_jitter(rng, _CLOTHES[rng.integers(len(_CLOTHES))]), 0.9)


def skin(rng: np.random.Generator) -> Material:
    """A skin tone."""
    t = float(rng.uniform(0, 1))
    return Material((0.45 + 0.4 * t, 0.3 + 0.37 * t, 0.23 + 0.34 * t), 0.55)


def hair(rng: np.random.Generator) -> Material:
    """Hair from black to grey."""
    v = float(rng.choice([0.03, 0.05, 0.08, 0.45], p=[0.5, 0.25, 0.15, 0.1]))
    return Material((v, v * 0.95, v * 0.9), 0.7)
