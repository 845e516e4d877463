"""A detection loss that leaves incompletely labelled classes alone.

Most public sets label some classes only: an unlabelled person in a car set is not background. `assemble.py` marks
such a picture with *ignore regions*, boxes of class `n + k`. They pass through mosaic, flips and scaling like any
box, so they still cover the right part of a mosaic. Here they are taken out of the targets, and the classification
loss of class `k` is dropped at anchors inside them, except where a labelled box of any class was assigned: an e-bike
in a picture whose bicycles are not labelled is no bicycle.
"""

from __future__ import annotations

from typing import Any

import torch
from ultralytics.data import YOLODataset, build_yolo_dataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils.loss import v8DetectionLoss, v8SegmentationLoss
from ultralytics.utils.tal import make_anchors

__all__ = ["MaskedDetectionLoss", "MaskedDetectionTrainer", "SurfaceTrainer"]


class MaskedDetectionLoss(v8DetectionLoss):  # type: ignore[misc]  # untyped base
    """YOLO detection loss with ignore regions in the batch."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self._plain_bce: torch.nn.Module = torch.nn.BCEWithLogitsLoss(reduction="none")
        self._ignored: torch.Tensor | None = None
        self.bce = self._masked_bce

    def _masked_bce(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._plain_bce(scores, targets)
        if self._ignored is None:
            return loss
        # What a labelled box was assigned to is known: no other class is ignored there.
        unknown = self._ignored & (targets == 0).all(dim=-1, keepdim=True)
        return loss * ~unknown

    def loss(
        self, preds: dict[str, torch.Tensor], batch: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a batch whose class ids from `nc` upwards are ignore regions."""
        labels = batch["cls"].view(-1)
        regions = labels >= self.nc
        anchors, stride = make_anchors(preds["feats"], self.stride, 0.5)
        centres = anchors * stride  # (anchors, 2) px
        height, width = (torch.tensor(preds["feats"][0].shape[2:]) * self.stride[0]).tolist()
        shape = (preds["scores"].shape[0], centres.shape[0], self.nc)
        ignored = torch.zeros(shape, dtype=torch.bool, device=centres.device)
        for image, label, box in zip(
            batch["batch_idx"][regions].long().tolist(),
            labels[regions].long().tolist(),
            batch["bboxes"][regions].tolist(),
            strict=True,
        ):
            inside = ((centres[:, 0] - box[0] * width).abs() <= box[2] * width / 2) & (
                (centres[:, 1] - box[1] * height).abs() <= box[3] * height / 2
            )
            ignored[image, :, label - self.nc] |= inside
        self._ignored = ignored
        preds = _as_float(preds)
        kept = {key: batch[key][~regions] for key in ("cls", "batch_idx", "bboxes")}
        with torch.autocast(self.device.type, enabled=False):
            result: tuple[torch.Tensor, dict[str, torch.Tensor]]
            result = super().loss(preds, {**batch, **kept})
            return result


class MaskedDetectionTrainer(DetectionTrainer):  # type: ignore[misc]  # untyped base
    """Ultralytics trainer for data sets with ignore regions in their training labels."""

    def get_dataset(self) -> dict[str, Any]:
        """Show the model's own classes to everything but the reader of the training labels."""
        data: dict[str, Any] = super().get_dataset()
        self.label_data = data
        count = int(data["classes"])
        names = {number: data["names"][number] for number in range(count)}
        return {**data, "nc": count, "names": names}

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> YOLODataset:
        """Read training labels with the ignore classes, validation labels without."""
        data = self.label_data if mode == "train" else self.data
        return build_yolo_dataset(
            self.args, img_path, batch, data, mode=mode, rect=mode == "val", stride=32
        )

    def _setup_train(self) -> None:
        super()._setup_train()
        # After the EMA copy was made: the checkpoint keeps a plain model that any Ultralytics loads.
        self.model.criterion = MaskedDetectionLoss(self.model)
        _use_bf16(self)


class SurfaceLoss(v8SegmentationLoss):  # type: ignore[misc]  # untyped base
    """YOLO segmentation loss in float32, whatever the network computed in."""

    def loss(
        self, preds: dict[str, torch.Tensor], batch: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a batch of pictures with masks."""
        preds = _as_float(preds)
        with torch.autocast(self.device.type, enabled=False):
            result: tuple[torch.Tensor, dict[str, torch.Tensor]] = super().loss(preds, batch)
            return result


class SurfaceTrainer(SegmentationTrainer):  # type: ignore[misc]  # untyped base
    """Ultralytics segmentation trainer that uses what a CPU has."""

    def _setup_train(self) -> None:
        super()._setup_train()
        self.model.criterion = SurfaceLoss(self.model)
        _use_bf16(self)


def _use_bf16(trainer: DetectionTrainer) -> None:
    """Compute in bf16 on a CPU that has it: Ultralytics offers that on CUDA alone, it halves the time of a step."""
    fast = torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public way to ask
    if trainer.device.type == "cpu" and fast:
        trainer.model.forward = torch.autocast("cpu", torch.bfloat16)(trainer.model.forward)


def _as_float(preds: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.float() if isinstance(value, torch.Tensor) else value
        for key, value in preds.items()
    }
