"""Procedural posters, screens and notices for walls: pictures made of gradients, shapes and lines of mock text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["poster"]


def poster(rng: np.random.Generator, *, width: int = 180, height: int = 260) -> NDArray[np.uint8]:
    """A mock advertisement, RGB (height, width, 3)."""

    def tone() -> tuple[int, int, int]:
        r, g, b = rng.integers(20, 250, 3)
        return int(r), int(g), int(b)

    low, high = np.asarray(tone(), float), np.asarray(tone(), float)
    ramp = np.linspace(0, 1, height)[:, None, None]
    base = np.broadcast_to(low + (high - low) * ramp, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(base)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(0, width), rng.uniform(0.2 * height, height)
        a, b = rng.uniform(0.05, 0.4) * width, rng.uniform(0.05, 0.35) * height
        area = (x - a, y - b, x + a, y + b)
        if rng.random() < 0.5:
            draw.ellipse(area, fill=tone())
        else:
            draw.rounded_rectangle(area, radius=min(a, b) * 0.4, fill=tone())
    image = image.filter(ImageFilter.GaussianBlur(1.5))
    draw = ImageDraw.Draw(image)
    ink = tone() if rng.random() < 0.5 else (250, 250, 245)
    y = 0.06 * height
    for _ in range(int(rng.integers(2, 9))):
        size = rng.uniform(0.015, 0.07) * height
        x = 0.1 * width
        end = rng.uniform(0.4, 0.9) * width
        while x < end:  # words as strokes: illegible, as they are at this distance
            step = size * rng.uniform(0.5, 1.0)
            draw.line(
                (x, y, x + step * 0.7, y + rng.uniform(-0.4, 0.4) * size),
                fill=ink,
                width=max(1, int(size * 0.25)),
            )
            draw.line(
                (x + step * 0.3, y - size * 0.4, x + step * 0.3, y + size * 0.5),
                fill=ink,
                width=max(1, int(size * 0.2)),
            )
            x += step
        y += size * rng.uniform(1.6, 3.5)
        if y > 0.92 * height:
            break
    return np.asarray(image)
