"""Photos that come with a person's command: only what is a picture gets in, and nothing else comes with it.

A photo is decoded and encoded anew. So what is kept holds neither the place nor the device that a phone writes into its
pictures, nor anything that only looks like a picture.
"""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, ImageOps

from alerts.tickets import PHOTO_BYTES
from pipeline.exceptions import CommandError

__all__ = ["checked_photo"]

# A byte bomb of 256 KB could unfold to gigabytes; no phone's picture of that size has longer sides.
SIDES_PX = (16, 4096)
QUALITY = 88  # encoded once more: seen beside the original, no difference


def checked_photo(text: str, place: str = "photo") -> bytes:
    """The JPEG in a base64 text, upright, without metadata.

    Args:
        text: Base64.
        place: Begins the error's message.

    Raises:
        CommandError: code ``malformed``, if it is no base64, too large, no JPEG, cut short, or of impossible size.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CommandError(
            f"{place}: is no base64, expected a JPEG in it", code="malformed"
        ) from None
    if len(data) > PHOTO_BYTES:
        raise CommandError(
            f"{place}: has {len(data)} bytes, expected at most {PHOTO_BYTES}", code="malformed"
        )
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:  # reads the header alone
            _check_size(image.size, place)
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except CommandError:
        raise
    except Image.DecompressionBombError:
        raise CommandError(
            f"{place}: has too many pixels, expected sides of at most {SIDES_PX[1]}",
            code="malformed",
        ) from None
    except Exception as error:  # a stranger's bytes break a decoder in any way
        raise CommandError(f"{place}: is no whole JPEG, expected one", code="malformed") from error
    kept = io.BytesIO()
    Image.frombytes("RGB", upright.size, upright.tobytes()).save(kept, "JPEG", quality=QUALITY)
    return kept.getvalue()


def _check_size(size: tuple[int, int], place: str) -> None:
    least, most = SIDES_PX
    if min(size) < least or max(size) > most:
        raise CommandError(
            f"{place}: is {size[0]}x{size[1]} pixels, expected sides of {least} to {most}",
            code="malformed",
        )
