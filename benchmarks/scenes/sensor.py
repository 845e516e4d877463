"""What a cheap security camera does to a picture: exposure, IR mode, vignette, blur, sharpening, noise, text, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["Sensor", "burn_text", "jpeg", "png", "to_display", "to_linear"]

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Sensor:
    """Fixed properties of one camera."""

    gain: float
    white_balance: tuple[float, float, float]
    gamma: float
    saturation: float
    infrared: bool
    vignette: float
    blur_px: float
    sharpen: float
    noise: float
    """Standard deviation of the noise at mid grey, in 8-bit steps."""
    text: tuple[str, ...]
    """Lines burnt in at upper left, then lower right."""
    jpeg_quality: int

    @classmethod
    def draw(cls, rng: np.random.Generator, *, infrared: bool = False) -> Sensor:
        """A random camera."""
        tint = rng.normal(0, 0.035, 3)
        stamp = f"20{rng.integers(20, 27)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
        clock = f"{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}:{rng.integers(0, 60):02d}"
        text = (f"{stamp} {clock}", f"CAM {rng.integers(1, 99):02d}") if rng.random() < 0.75 else ()
        return cls(
            gain=float(rng.uniform(0.8, 1.3)),
            white_balance=(float(1 + tint[0]), float(1 + tint[1] * 0.5), float(1 + tint[2])),
            gamma=float(rng.uniform(0.85, 1.15)),
            saturation=float(rng.uniform(0.5, 1.15)),
            infrared=infrared,
            vignette=float(rng.uniform(0, 0.45)),
            blur_px=float(rng.choice([0.0, 0.5, 0.8, 1.2], p=[0.3, 0.35, 0.25, 0.1])),
            sharpen=float(rng.uniform(0, 1.5)),
            noise=float(rng.choice([1.5, 3.0, 5.0, 9.0], p=[0.35, 0.35, 0.2, 0.1])),
            text=text,
            jpeg_quality=int(rng.integers(45, 92)),
        )

    def expose(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Apply everything but text and JPEG to an RGB picture (h, w, 3) uint8; returns the same shape."""
        h, w = picture.shape[:2]
        x = (
            (picture.astype(np.float32) / 255) ** self.gamma
            * self.gain
            * np.asarray(self.white_balance, np.float32)
        )
        grey = (x @ np.array([0.3, 0.59, 0.11], np.float32))[..., None]
        x = np.repeat(grey, 3, -1) if self.infrared else grey + (x - grey) * self.saturation
        yy, xx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
        x = x * (1 - self.vignette * np.clip((xx**2 + yy**2) / 2, 0, 1) ** 1.5)[..., None]
        # A soft shoulder stands in for the camera's highlight compression.
        x = np.where(x > 0.85, 0.85 + 0.15 * np.tanh((x - 0.85) / 0.3), x)
        image = Image.fromarray((np.clip(x, 0, 1) * 255).astype(np.uint8))
        if self.blur_px:
            image = image.filter(ImageFilter.GaussianBlur(self.blur_px))
        if self.sharpen > 0.2:
            image = image.filter(ImageFilter.UnsharpMask(1.5, int(self.sharpen * 60), 2))
        out = np.asarray(image).astype(np.float32)
        luma = rng.normal(0, self.noise, (h, w, 1))
        chroma = 0.0 if self.infrared else rng.normal(0, self.noise * 0.5, (h, w, 3))
        out += (luma + chroma) * (0.6 + 0.4 * np.sqrt(1.05 - out / 255))
        return np.clip(out, 0, 255).astype(np.uint8)


def burn_text(picture: Picture, lines: tuple[str, ...]) -> Picture:
    """Burn the first line in at upper left and the others at lower right, white with a black edge."""
    if not lines:
        return picture
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, image.width // 32)
    font = ImageFont.load_default(size)
    draw.text(
        (size, size * 0.7), lines[0], font=font, fill="white", stroke_width=1, stroke_fill="black"
    )
    for i, line in enumerate(reversed(lines[1:])):
        width = draw.textlength(line, font=font)
        at = (image.width - width - size, image.height - size * (1.9 + 1.3 * i))
        draw.text(at, line, font=font, fill="white", stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def jpeg(picture: Picture, quality: int) -> bytes:
    """The picture as JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, or a map of numbers (h, w), as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def to_linear(picture: Picture) -> NDArray[np.float32]:
    """An sRGB picture, 0..255 → linear light, 0..1 (IEC 61966-2-1)."""
    c = picture.astype(np.float32) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_display(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light, clipped to 0..1 → sRGB, 0..1."""
    c = np.clip(light, 0, 1)
    return np.where(c <= 0.0031308, c * 12.92, 1.055 * c ** (1 / 2.4) - 0.055).astype(np.float32)
