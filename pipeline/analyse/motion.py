"""What moved between two analysed frames of one camera (contract; the gate itself is built beside it)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Motion"]


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Motion since the last analysed frame.

    Attributes:
        fraction: Share of the picture that moved, 0..1.
        mask: (h, w) bool at the gate's working size, True where it moved.
        still_s: Seconds for which nothing has moved.
    """

    fraction: float
    mask: npt.NDArray[np.bool_]
    still_s: float
