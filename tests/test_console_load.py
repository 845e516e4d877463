"""The measurement of how soon a ticket is seen: nothing is missing, and a page is not ahead of its own stream."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmarks import console_load
from benchmarks.console_browser import CHROMIUM


@pytest.mark.real
@pytest.mark.timeout(120)
def test_every_ticket_is_seen_in_the_stream_and_on_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if shutil.which("mosquitto") is None or shutil.which(CHROMIUM) is None:
        pytest.skip("NOT TESTED in a browser: there is no mosquitto, or no chromium")
    # The status also says whether p95 was below a second, which other tests on the machine decide.
    console_load.main(["--rate", "20", "--seconds", "2", "--browser"])
    found = json.loads(capsys.readouterr().out)
    assert found["tickets"] == 40
    assert found["stream"]["missing"] == found["browser"]["missing"] == 0
    assert 0 < found["stream"]["p50_ms"] < found["browser"]["p50_ms"]
