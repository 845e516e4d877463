"""Ending with the program that started this one, however that ended: by ``kill -9`` too.

The starter keeps the other end of our standard input, a pipe, and writes nothing. The kernel closes that end with it,
which no signal handler and no ``finally`` of the starter could promise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

__all__ = ["WITH_PARENT", "end_with_parent"]

WITH_PARENT = "--with-parent"  # the option of the commands that can do so


def end_with_parent() -> None:
    """From now on, the end of the standard input is a SIGTERM to ourselves."""
    threading.Thread(target=_follow, name="parent", daemon=True).start()


def _follow() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 64):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
