"""Pictures to detections: Ultralytics models on ONNX Runtime, without Ultralytics."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import supervision as sv

from pipeline.analyse.weights import STRIDE_PX, WeightsEntry, check_input, check_outputs, verify
from pipeline.exceptions import ConfigError, ModelError
from pipeline.frame import Image

__all__ = ["Detector", "Letterbox", "available_providers", "suppress"]

_Floats: TypeAlias = npt.NDArray[np.float32]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
PAD_GREY = 114  # Ultralytics' padding value, which the models were trained with
MAX_CANDIDATES = 1000  # strongest boxes that enter suppression; its cost grows with their square
MAX_DETECTIONS = 300  # Ultralytics' cap, and the length of an end-to-end head's list
MAX_MASKS = 32  # a mask has the size of the picture: more are not worth their memory
RIVAL_IOU = 0.5  # a rival's box on the same thing; COCO's customary overlap of a match
MAX_BUFFERS = 8  # input buffers kept, one per batch and shape; few shapes occur on a site


def available_providers() -> list[str]:
    """Names for cameras.yaml of the execution providers that this ONNX Runtime has."""
    installed = set(ort.get_available_providers())
    return [name for name, provider in PROVIDERS.items() if provider in installed]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in a model's input: scaled evenly, centred, padded with grey.

    The algorithm is that of Ultralytics' `LetterBox` (`center=True`, `scaleup=True`).

    Attributes:
        shape: Height and width of the input in pixels.
        scale: Input pixels per picture pixel, across and down; they differ by the rounding of `size`.
        size: Width and height of the scaled picture in the input.
        left: Columns of padding before it.
        top: Rows of padding above it.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]
    size: tuple[int, int]
    left: int
    top: int

    @classmethod
    def fit(
        cls, picture: tuple[int, int], input_px: tuple[int, int], *, rectangular: bool
    ) -> Letterbox:
        """Fit a picture of (height, width) into `input_px`, or if `rectangular` into the least multiple of 32 in it."""
        scale = min(input_px[0] / picture[0], input_px[1] / picture[1])
        height, width = max(round(picture[0] * scale), 1), max(round(picture[1] * scale), 1)
        rest_y, rest_x = input_px[0] - height, input_px[1] - width
        if rectangular:
            rest_y, rest_x = rest_y % STRIDE_PX, rest_x % STRIDE_PX
        return cls(
            shape=(height + rest_y, width + rest_x),
            scale=(width / picture[1], height / picture[0]),
            size=(width, height),
            left=round(rest_x / 2 - 0.1),  # an odd pixel goes to the right and to the bottom
            top=round(rest_y / 2 - 0.1),
        )

    def write(self, image: Image, out: npt.NDArray[np.floating[Any]]) -> None:
        """Write a picture into `out`, (3, h, w) RGB 0..1; its padding is left as it is."""
        if image.shape[1::-1] != self.size:
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_LINEAR)
        width, height = self.size
        inner = out[:, self.top : self.top + height, self.left : self.left + width]
        for plane, channel in zip(inner[::-1], cv2.split(image), strict=True):
            np.divide(channel, np.float32(255), out=plane, dtype=np.float32, casting="same_kind")

    def to_picture(self, xyxy: _Floats, picture: tuple[int, int]) -> _Floats:
        """Boxes (n, 4) in input pixels as boxes in pixels of the picture of (height, width), clipped to it."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        limit = np.array([picture[1], picture[0]] * 2, np.float32)
        moved: _Floats = np.clip((xyxy - offset) / np.array(self.scale * 2, np.float32), 0, limit)
        return moved


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Decoded boxes of one picture in input pixels, strongest first."""

    xyxy: _Floats  # (n, 4)
    confidence: _Floats  # (n,)
    class_id: npt.NDArray[np.int64]  # (n,)
    coefficients: _Floats  # (n, prototypes); no columns without masks

    def take(self, index: npt.NDArray[np.int64]) -> _Candidates:
        return _Candidates(
            self.xyxy[index],
            self.confidence[index],
            self.class_id[index],
            self.coefficients[index],
        )


def suppress(xyxy: _Floats, confidence: _Floats, iou: float) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        xyxy: (n, 4) boxes.
        confidence: (n,); of equals the earlier wins.
        iou: A box is dropped if it overlaps a kept stronger one by more than this.

    Returns:
        Indices of the kept boxes, strongest first.
    """
    corner, size = xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]
    # As lists: OpenCV's binding takes arrays several times slower; either beats NumPy by far.
    boxes = np.concatenate([corner, size], axis=1).tolist()
    kept = cv2.dnn.NMSBoxes(boxes, confidence.tolist(), 0.0, iou)
    return np.array(kept, dtype=np.int64).ravel()


class Detector:
    """One model, one session, for all cameras. Safe to call from several threads; calls wait for one another.

    Args:
        entry: The registered model.
        providers: Names of execution providers in order of preference, see `available_providers`.
        threads: Threads that one inference may use.

    Raises:
        ConfigError: if a provider is unknown or not installed.
        ModelError: if the weights are not those registered, cannot be run or do not fit their entry.
    """

    def __init__(
        self, entry: WeightsEntry, providers: Sequence[str] = ("cpu",), threads: int = 1
    ) -> None:
        self.entry = entry
        self._session = _open(entry, providers, threads)
        declared = self._session.get_inputs()
        check_input(entry, [node.shape for node in declared])
        self._input = declared[0].name
        self._dtype = np.float16 if "float16" in declared[0].type else np.float32
        self._batches = not isinstance(declared[0].shape[0], int)
        self._names = np.array(entry.classes, dtype=np.str_)
        number = {name: class_id for class_id, name in enumerate(entry.classes)}
        self._rivals = {
            number[name]: [number[rival] for rival in rivals]
            for name, rivals in entry.rivals.items()
        }
        self._buffers: dict[tuple[int, Letterbox], npt.NDArray[Any]] = {}
        self._lock = threading.Lock()
        # The first run shows the true shapes where the model leaves them open, and takes the slow start.
        blank = np.zeros((1, 3, *entry.input_px), self._dtype)
        check_outputs(entry, [output.shape for output in self._run(blank)])

    @property
    def thresholds(self) -> dict[str, float]:
        """Operating point by class."""
        return self.entry.operating_points

    def detect(self, images: Sequence[Image]) -> list[sv.Detections]:
        """Detections in each picture, strongest first, none below the entry's floor.

        Args:
            images: (h, w, 3) uint8 BGR, of any sizes; those of one letterbox go through a dynamic model together.

        Returns:
            Per picture `xyxy` (n, 4) float32 in its pixels, `confidence` (n,) float32, `class_id` (n,) int64,
            `data["class_name"]` (n,) str, and for a segmentation model `mask` (n, h, w) bool.

        Raises:
            ModelError: if ONNX Runtime fails.
        """
        found: list[sv.Detections | None] = [None] * len(images)
        with self._lock:
            for boxing, indices in self._groups(images):
                buffer = self._buffer(len(indices), boxing)
                for plane, index in zip(buffer, indices, strict=True):
                    boxing.write(images[index], plane)
                outputs = self._run(buffer)
                for row, index in enumerate(indices):
                    shape = images[index].shape[:2]
                    found[index] = self._detections([out[row] for out in outputs], boxing, shape)
        return [detections for detections in found if detections is not None]

    def mask(self, image: Image, class_name: str) -> npt.NDArray[np.bool_]:
        """Where a segmentation model sees a class: (h, w) bool, over the class's operating point."""
        detections = self.detect([image])[0]
        area = np.zeros(image.shape[:2], np.bool_)
        if isinstance(detections.mask, np.ndarray) and detections.confidence is not None:
            chosen = detections.data["class_name"] == class_name
            chosen &= detections.confidence >= self.entry.operating_points[class_name]
            area |= detections.mask[chosen].any(axis=0)
        return area

    def _groups(self, images: Sequence[Image]) -> list[tuple[Letterbox, list[int]]]:
        groups: dict[Letterbox, list[int]] = {}
        for index, image in enumerate(images):
            boxing = Letterbox.fit(
                (image.shape[0], image.shape[1]),
                self.entry.input_px,
                rectangular=self.entry.dynamic,
            )
            groups.setdefault(boxing, []).append(index)
        if self._batches:
            return list(groups.items())
        return [(boxing, [index]) for boxing, indices in groups.items() for index in indices]

    def _buffer(self, count: int, boxing: Letterbox) -> npt.NDArray[Any]:
        key = count, boxing
        if key not in self._buffers:
            if len(self._buffers) >= MAX_BUFFERS:
                self._buffers.pop(next(iter(self._buffers)))
            self._buffers[key] = np.full(
                (count, 3, *boxing.shape), np.float32(PAD_GREY) / np.float32(255), self._dtype
            )
        return self._buffers[key]

    def _run(self, batch: npt.NDArray[Any]) -> list[_Floats]:
        try:
            outputs = self._session.run(None, {self._input: batch})
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise ModelError(
                f"{self.entry.path}: model {self.entry.name}: found {_line(error)}, expected a result"
            ) from error
        return [np.asarray(output, dtype=np.float32) for output in outputs]

    def _detections(
        self, outputs: Sequence[_Floats], boxing: Letterbox, picture: tuple[int, int]
    ) -> sv.Detections:
        decode = self._decode_grid if self.entry.layout == "yolo" else self._decode_list
        boxes = decode(outputs[0])
        xyxy = boxing.to_picture(boxes.xyxy, picture)
        mask = None
        if self.entry.task == "segment":
            boxes = boxes.take(np.arange(min(len(boxes.xyxy), MAX_MASKS)))
            xyxy = xyxy[:MAX_MASKS]
            mask = _masks(boxes.coefficients, outputs[1], xyxy, boxing, picture)
        return sv.Detections(
            xyxy=xyxy,
            mask=mask,
            confidence=boxes.confidence,
            class_id=boxes.class_id,
            data={"class_name": self._names[boxes.class_id]},
        )

    def _decode_grid(self, output: _Floats) -> _Candidates:
        """(4 + classes + coefficients, n): centre, size, score per class; one class per box, as Ultralytics does."""
        classes = len(self.entry.classes)
        scores = output[4 : 4 + classes]
        best = scores.max(axis=0)
        index = np.flatnonzero(best > self.entry.floor_confidence)
        index = index[np.argsort(-best[index], kind="stable")[:MAX_CANDIDATES]]
        centre, half = output[:2, index], output[2:4, index] / 2
        found = _Candidates(
            np.ascontiguousarray(np.concatenate([centre - half, centre + half]).T),
            best[index],
            scores[:, index].argmax(axis=0),
            np.ascontiguousarray(output[4 + classes :, index].T),
        )
        # Class-aware: boxes of different classes are moved so far apart that they cannot overlap.
        apart = np.float32(0 if self.entry.agnostic_nms else 2 * max(self.entry.input_px))
        moved = found.xyxy + (found.class_id[:, None] * apart).astype(np.float32)
        kept = found.take(suppress(moved, found.confidence, self.entry.nms_iou)[:MAX_DETECTIONS])
        return self._discount(kept, found.xyxy, scores[:, index]) if self._rivals else kept

    def _discount(self, kept: _Candidates, xyxy: _Floats, scores: _Floats) -> _Candidates:
        """Lower what may as well be a rival class; `xyxy` (n, 4) and `scores` (classes, n) are of all candidates."""
        confidence = kept.confidence.copy()
        for class_id, rivals in self._rivals.items():
            mine = np.flatnonzero(kept.class_id == class_id)
            there = sv.box_iou_batch(kept.xyxy[mine], xyxy) > RIVAL_IOU
            rival = np.where(there, scores[rivals].max(axis=0), 0).max(axis=1, initial=0)
            confidence[mine] *= 1 - rival
        order = np.argsort(-confidence, kind="stable")
        order = order[confidence[order] > self.entry.floor_confidence]
        return replace(kept, confidence=confidence).take(order)

    def _decode_list(self, output: _Floats) -> _Candidates:
        """(n, 6 + coefficients): corners, confidence, class; without duplicates already."""
        output = output[output[:, 4] > self.entry.floor_confidence]
        output = output[np.argsort(-output[:, 4], kind="stable")[:MAX_DETECTIONS]]
        class_id = output[:, 5].astype(np.int64)
        if len(class_id) and not 0 <= class_id.min() <= class_id.max() < len(self.entry.classes):
            raise ModelError(
                f"{self.entry.path}: model {self.entry.name}: found class {class_id.max()},"
                f" expected 0 to {len(self.entry.classes) - 1}"
            )
        return _Candidates(output[:, :4], output[:, 4], class_id, output[:, 6:])


def _masks(
    coefficients: _Floats,
    prototypes: _Floats,
    xyxy: _Floats,
    boxing: Letterbox,
    picture: tuple[int, int],
) -> npt.NDArray[np.bool_]:
    """(n, h, w) masks in the picture: prototypes weighted by coefficients, sampled at each pixel, cut to the box.

    The method is YOLACT's (Bolya et al. 2019). A mask is inside where its logit is above 0.
    """
    height, width = picture
    masks = np.zeros((len(xyxy), height, width), np.bool_)
    grain = prototypes.shape[1] / boxing.shape[0]  # prototype pixels per input pixel
    zoom_x, zoom_y = (scale * grain for scale in boxing.scale)
    to_prototype = np.array(  # pixel centres: x' = (s·(x + ½) + left)·g - ½
        [
            [zoom_x, 0, zoom_x / 2 + boxing.left * grain - 0.5],
            [0, zoom_y, zoom_y / 2 + boxing.top * grain - 0.5],
        ]
    )
    logits = np.tensordot(coefficients, prototypes, axes=1)
    for mask, logit, box in zip(masks, logits, xyxy, strict=True):
        x1, y1, x2, y2 = (int(edge) for edge in np.rint(box))
        sampled = cv2.warpAffine(
            logit,
            to_prototype,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask[y1:y2, x1:x2] = sampled[y1:y2, x1:x2] > 0
    return masks


def _open(entry: WeightsEntry, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    available = available_providers()
    for name in providers:
        if name not in available:
            known = "known but not installed" if name in PROVIDERS else "unknown"
            raise ConfigError(
                f"providers: found {name!r} ({known}), expected some of {', '.join(available)}"
            )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors come as exceptions; its warnings are not for operators
    # Spinning threads would burn the cores that decoding needs between two inferences.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    chosen = [
        (PROVIDERS[name], {"num_of_threads": str(threads)} if name == "openvino" else {})
        for name in providers
    ]
    content = verify(entry)
    try:
        session = ort.InferenceSession(content, options, providers=chosen)
    except Exception as error:  # ONNX Runtime's errors share no other base
        raise ModelError(
            f"{entry.path}: model {entry.name}: found {_line(error)}, expected a model that ONNX Runtime can run"
        ) from error
    # A provider whose libraries are missing is left out without an exception.
    if chosen and session.get_providers()[0] != chosen[0][0]:
        raise ModelError(
            f"{entry.path}: model {entry.name}: found it on {session.get_providers()[0]},"
            f" expected {chosen[0][0]}, which did not start"
        )
    return session


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
