"""What `gridwatch check` writes leaves memory too: it hides what evidence hides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import supervision as sv

from alerts.connection import BrokerSettings
from gridwatch import check
from gridwatch.config import load_config
from pipeline.frame import Image


class People:
    """Sees one person in the left half of every picture."""

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        return [
            sv.Detections(
                xyxy=np.array([[20.0, 10.0, 60.0, 110.0]], np.float32),
                confidence=np.array([0.9], np.float32),
                class_id=np.array([0]),
                data={"class_name": np.array(["person"])},
            )
            for _ in images
        ]


@pytest.mark.parametrize("blurs", [True, False])
def test_heads_are_hidden_where_the_privacy_settings_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blurs: bool
) -> None:
    coarse = np.random.default_rng(1).integers(0, 255, (15, 20), dtype=np.uint8)
    grey = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_LINEAR)
    seen = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    cv2.imwrite(str(tmp_path / "still.png"), seen)
    file = tmp_path / "cameras.yaml"
    file.write_text(
        "site: {id: demo}\n"
        f"cameras: [{{id: gate, url: still.png, privacy: {{blur_heads: {str(blurs).lower()}}}}}]\n"
    )

    def load(*_: object, **__: object) -> tuple[object, object, object]:
        return {"vehicles": People()}, {"vehicles": SimpleNamespace(sha256="0" * 64, stage="x")}, {}

    def connect(_: BrokerSettings) -> str:
        return "5"

    monkeypatch.setattr(check, "load_detectors", load)
    monkeypatch.setattr(check, "try_connect", connect)
    assert check.check_site(load_config(file, {}), tmp_path / "out", 1.0)
    shown = cv2.imread(str(tmp_path / "out" / "gate.jpg"))
    assert shown is not None
    change = np.abs(shown.astype(int) - seen.astype(int)).mean(axis=2)
    head, rest = change[12:40, 22:58].mean(), change[:, 80:].mean()
    assert rest < 12, "JPEG alone"
    assert bool(head > 3 * rest) is blurs
