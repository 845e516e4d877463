from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from models.training.evaluate import detect, open_session
from pipeline.analyse.detector import Detector, Letterbox, available_providers, suppress
from pipeline.exceptions import ConfigError, ModelError
from pipeline.frame import Image
from tests.onnx_models import CLASSES, build, entry_for

BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def picture(size: tuple[int, int], **areas: tuple[int, int, int, int]) -> Image:
    """A grey picture of (height, width) with a rectangle of each named colour."""
    image = np.full((*size, 3), 128, np.uint8)
    for colour, (x1, y1, x2, y2) in areas.items():
        image[y1:y2, x1:x2] = BGR[colour]
    return image


def names_of(detections: sv.Detections) -> list[str]:
    return [str(name) for name in detections.data["class_name"]]


def seen(detections: sv.Detections) -> set[tuple[Any, ...]]:
    names = names_of(detections)
    return {
        (name, *box)
        for name, box in zip(names, np.rint(detections.xyxy).astype(int).tolist(), strict=True)
    }


def reference_letterbox(
    image: Image, new_shape: tuple[int, int], *, auto: bool, stride: int = 32
) -> npt.NDArray[np.float32]:
    """The published algorithm, step by step: scale, pad with round(± 0.1), BGR → RGB, 0..1, CHW."""
    shape = image.shape[:2]
    r = min(new_shape[0] / shape[0], new_shape[1] / shape[1])
    unpadded = round(shape[1] * r), round(shape[0] * r)
    dw, dh = new_shape[1] - unpadded[0], new_shape[0] - unpadded[1]
    if auto:
        dw, dh = dw % stride, dh % stride
    half_w, half_h = dw / 2, dh / 2
    if shape[::-1] != unpadded:
        image = cv2.resize(image, unpadded, interpolation=cv2.INTER_LINEAR)
    top, bottom = round(half_h - 0.1), round(half_h + 0.1)
    left, right = round(half_w - 0.1), round(half_w + 0.1)
    padded = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114)
    )
    chw = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))
    return chw.astype(np.float32) / np.float32(255)


def our_letterbox(
    image: Image, input_px: tuple[int, int], *, rectangular: bool
) -> npt.NDArray[np.float32]:
    boxing = Letterbox.fit((image.shape[0], image.shape[1]), input_px, rectangular=rectangular)
    out = np.full((3, *boxing.shape), np.float32(114) / np.float32(255), np.float32)
    boxing.write(image, out)
    return out


@pytest.mark.parametrize("rectangular", [False, True], ids=["fixed", "rectangular"])
@pytest.mark.parametrize(
    "size", [(540, 960), (960, 540), (537, 959), (100, 333), (640, 640), (31, 47), (384, 640)]
)
@pytest.mark.parametrize("input_px", [(640, 640), (384, 640)])
def test_the_letterbox_is_the_published_one_bit_for_bit(
    size: tuple[int, int], input_px: tuple[int, int], rectangular: bool
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = our_letterbox(image, input_px, rectangular=rectangular)
    np.testing.assert_array_equal(ours, reference_letterbox(image, input_px, auto=rectangular))


def test_the_letterbox_is_that_of_ultralytics() -> None:
    augment = pytest.importorskip("ultralytics.data.augment", reason="ULTRALYTICS ABSENT")
    image = np.random.default_rng(0).integers(0, 256, (537, 959, 3), dtype=np.uint8)
    for auto in (False, True):
        theirs = augment.LetterBox((384, 640), auto=auto, stride=32)(image=image)
        scaled = np.round(our_letterbox(image, (384, 640), rectangular=auto) * 255)
        np.testing.assert_array_equal(scaled, theirs[..., ::-1].transpose(2, 0, 1))


@given(
    height=st.integers(16, 2200),
    width=st.integers(16, 4000),
    rectangular=st.booleans(),
    data=st.data(),
)
def test_boxes_come_back_to_where_they_were(
    height: int, width: int, rectangular: bool, data: st.DataObject
) -> None:
    boxing = Letterbox.fit((height, width), (384, 640), rectangular=rectangular)
    assert boxing.shape[0] <= 384
    assert boxing.shape[1] <= 640
    assert boxing.shape[0] % 32 == boxing.shape[1] % 32 == 0
    x, y = data.draw(st.floats(0, width)), data.draw(st.floats(0, height))
    there = np.array([[x, y, x, y]], np.float32) * np.array(boxing.scale * 2, np.float32)
    there += np.array([boxing.left, boxing.top] * 2, np.float32)
    back = boxing.to_picture(there, (height, width))
    np.testing.assert_allclose(back, [[x, y, x, y]], atol=0.01 * max(1, width / 640))


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("layout", ["yolo", "end2end"])
def test_finds_colours_where_they_are(tmp_path: Path, layout: str, half: bool) -> None:
    path = build(tmp_path / "m.onnx", layout=layout, half=half)
    detector = Detector(entry_for(path, layout=layout))
    # 256 × 384 enters at half size: cells of 64 px.
    image = picture((256, 384), red=(64, 128, 128, 192), green=(256, 0, 320, 64))
    found = detector.detect([image])[0]
    assert seen(found) == {("red", 64, 128, 128, 192), ("green", 256, 0, 320, 64)}
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, 1.0, atol=2e-3)
    assert found.xyxy.dtype == found.confidence.dtype == np.float32
    assert found.class_id is not None
    assert [CLASSES[i] for i in found.class_id] == names_of(found)


def test_finds_colours_through_the_padding(tmp_path: Path) -> None:
    detector = Detector(entry_for(build(tmp_path / "m.onnx")))
    tall = picture(
        (256, 128), blue=(0, 0, 128, 64)
    )  # at half size, 64 px of padding left and right
    assert seen(detector.detect([tall])[0]) == {("blue", 0, 0, 64, 64), ("blue", 64, 0, 128, 64)}


def test_a_dynamic_model_sees_the_least_rectangle_and_batches_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(tmp_path / "m.onnx", dynamic=True)
    detector = Detector(entry_for(path, dynamic=True, input_px=(192, 192)))
    shapes: list[tuple[int, ...]] = []
    run = detector._run

    def spy(batch: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        shapes.append(batch.shape)
        return run(batch)

    monkeypatch.setattr(detector, "_run", spy)
    wide = picture((96, 192), red=(0, 0, 32, 32))
    large = picture((192, 384), green=(64, 64, 128, 128))
    square = picture((192, 192), blue=(32, 32, 64, 64))
    found = detector.detect([wide, square, wide, large])
    assert shapes == [(2, 3, 96, 192), (1, 3, 192, 192), (1, 3, 96, 192)]
    assert [seen(one) for one in found] == [
        {("red", 0, 0, 32, 32)},
        {("blue", 32, 32, 64, 64)},
        {("red", 0, 0, 32, 32)},
        {("green", 64, 64, 128, 128)},
    ]


def test_a_fixed_model_sees_one_after_the_other(tmp_path: Path) -> None:
    detector = Detector(entry_for(build(tmp_path / "m.onnx")))
    images = [picture((128, 192), red=(32 * i, 0, 32 * i + 32, 32)) for i in range(3)]
    assert [seen(one) for one in detector.detect(images)] == [
        {("red", 32 * i, 0, 32 * i + 32, 32)} for i in range(3)
    ]
    assert detector.detect([]) == []


def test_one_picture_leaves_nothing_in_the_next(tmp_path: Path) -> None:
    detector = Detector(entry_for(build(tmp_path / "m.onnx")))
    full = picture((128, 192), red=(0, 0, 192, 128))
    tall = picture((128, 64), green=(0, 0, 32, 32))
    first = detector.detect([tall])[0]
    assert len(detector.detect([full])[0]) == 24
    again = detector.detect([tall])[0]
    assert len(first) == len(again)
    np.testing.assert_array_equal(first.xyxy, again.xyxy)
    np.testing.assert_array_equal(first.confidence, again.confidence)


def test_nothing_found_has_the_same_form(tmp_path: Path) -> None:
    found = Detector(entry_for(build(tmp_path / "m.onnx"))).detect([picture((128, 192))])[0]
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert names_of(found) == []
    assert found.class_id is not None
    assert found.confidence is not None


def test_suppression_is_within_a_class_unless_asked_otherwise(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", box_px=96.0)
    image = picture((128, 192), red=(64, 64, 96, 96), green=(96, 64, 128, 96))
    image[64:96, 32:64] = (60, 60, 200)  # a paler red beside the red
    aware = Detector(entry_for(path, nms_iou=0.4)).detect([image])[0]
    assert sorted(names_of(aware)) == ["green", "red"]
    agnostic = Detector(entry_for(path, nms_iou=0.4, agnostic_nms=True)).detect([image])[0]
    assert len(agnostic) == 1
    loose = Detector(entry_for(path, nms_iou=0.6)).detect([image])[0]
    assert len(loose) == 3


def test_what_may_as_well_be_its_rival_is_less_sure(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx")
    image = picture((128, 192), red=(128, 0, 160, 32), green=(160, 64, 192, 96))
    image[0:32, 0:32] = (0, 200, 255)  # 61 % red, 28 % green
    plain = Detector(entry_for(path)).detect([image])[0]
    wary = Detector(entry_for(path, rivals={"red": ("green",)})).detect([image])[0]
    assert seen(wary) == seen(plain)
    assert plain.confidence is not None
    assert wary.confidence is not None
    mixed, rival = 1 - 100 / 255, (200 - 127.5) / 255
    np.testing.assert_allclose(plain.confidence, [1, 1, mixed], atol=1e-5)
    np.testing.assert_allclose(wary.confidence, [1, 1, mixed * (1 - rival)], atol=1e-5)
    # The recipe measures without the run time, and must measure the same.
    measured = detect(open_session(path), image, (128, 192), len(CLASSES), {0: [1]})
    np.testing.assert_allclose(sorted(measured[:, 4]), sorted(wary.confidence), atol=1e-5)


def test_a_rival_counts_on_the_same_thing_only_and_the_floor_comes_after_it(
    tmp_path: Path,
) -> None:
    image = picture((128, 192), red=(64, 64, 96, 96), green=(96, 64, 128, 96))
    for box_px, left in ((96.0, ["green", "red"]), (160.0, ["green"])):  # IoU 0.5 and 0.67
        path = build(tmp_path / "m.onnx", box_px=box_px)
        found = Detector(entry_for(path, rivals={"red": ("green",)})).detect([image])[0]
        assert sorted(names_of(found)) == left


def test_what_lies_below_the_floor_is_dropped(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx")
    image = picture((128, 192), red=(0, 0, 32, 32))
    image[0:32, 64:96] = (100, 100, 170)  # 27 % red
    assert len(Detector(entry_for(path)).detect([image])[0]) == 2
    assert len(Detector(entry_for(path, floor=0.3)).detect([image])[0]) == 1


def test_the_strongest_comes_first_and_the_number_is_capped(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", input_px=(640, 640))
    image = np.full((640, 640, 3), 0, np.uint8)
    image[..., 2] = np.repeat(np.arange(400).reshape(20, 20) % 155 + 100, 32, 0).repeat(32, 1)
    found = Detector(entry_for(path, input_px=(640, 640))).detect([image])[0]
    assert found.confidence is not None
    assert len(found) == 300
    assert np.all(np.diff(found.confidence) <= 0)


def test_masks_lie_on_the_picture(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", task="segment", box_px=4096.0)
    detector = Detector(entry_for(path, task="segment"))
    image = picture((256, 300), blue=(40, 80, 220, 200))  # 300 wide: padded left and right
    found = detector.detect([image])[0]
    assert len(found) == 1
    mask = detector.mask(image, "blue")
    assert mask.shape == (256, 300)
    truth = np.zeros((256, 300), np.bool_)
    truth[80:200, 40:220] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97
    assert not detector.mask(image, "red").any()
    assert not detector.mask(picture((256, 300)), "blue").any()


def test_masks_end_at_their_box(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", task="segment")
    found = Detector(entry_for(path, task="segment")).detect(
        [picture((128, 192), blue=(0, 0, 96, 32))]
    )[0]
    assert isinstance(found.mask, np.ndarray)
    assert len(found) == 3
    for mask, box in zip(found.mask, found.xyxy.astype(int), strict=True):
        inside = np.zeros_like(mask)
        inside[box[1] : box[3], box[0] : box[2]] = True
        assert mask.any()
        assert not (mask & ~inside).any()


def test_a_class_that_was_never_registered_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", layout="end2end")
    detector = Detector(entry_for(path, layout="end2end", classes=("red", "green")))
    with pytest.raises(ModelError, match="found class 2, expected 0 to 1"):
        detector.detect([picture((128, 192), blue=(0, 0, 64, 64))])


def test_a_model_that_does_not_fit_its_entry_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"found output 1×7×24, expected yolo \(b, 8, n\)"):
        Detector(entry_for(path, classes=("a", "b", "c", "d")))
    with pytest.raises(ModelError, match="expected outputs of rank"):
        Detector(entry_for(path, task="segment"))
    with pytest.raises(ModelError, match="expected input_px"):
        Detector(entry_for(path, input_px=(128, 128)))


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="expected a model that ONNX Runtime can run") as raised:
        Detector(entry_for(path))
    assert "\n" not in str(raised.value)
    path.write_bytes(build(path).read_bytes()[:-9])
    with pytest.raises(ModelError):
        Detector(entry_for(path))
    swapped = entry_for(path, sha256=hashlib.sha256(b"").hexdigest())
    with pytest.raises(ModelError, match="found sha256"):
        Detector(swapped)


def test_a_provider_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    entry = entry_for(build(tmp_path / "m.onnx"))
    assert "cpu" in available_providers()
    with pytest.raises(ConfigError, match=r"found 'abacus' \(unknown\), expected some of .*cpu"):
        Detector(entry, providers=["abacus", "cpu"])
    if "tensorrt" not in available_providers():
        with pytest.raises(ConfigError, match=r"'tensorrt' \(known but not installed\)"):
            Detector(entry, providers=["tensorrt"])


def test_the_session_does_not_spin(tmp_path: Path) -> None:
    detector = Detector(entry_for(build(tmp_path / "m.onnx")), threads=2)
    options = detector._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


def reference_nms(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], iou: float
) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        for k in kept:
            width = min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0])
            height = min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1])
            shared = max(0.0, float(width)) * max(0.0, float(height))
            areas = [float((b[2] - b[0]) * (b[3] - b[1])) for b in (boxes[i], boxes[k])]
            if shared / (sum(areas) - shared) > iou:
                break
        else:
            kept.append(i)
    return kept


@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2), max_size=25),
    seed=st.integers(0, 1000),
)
def test_suppression_is_the_greedy_one(boxes: list[tuple[int, ...]], seed: int) -> None:
    xywh = np.array(boxes, np.float32).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    order = np.random.default_rng(seed).permutation(len(boxes))
    scores = (order / 100 + 0.1).astype(np.float32)
    assert suppress(xyxy, scores, 0.5137).tolist() == reference_nms(xyxy, scores, 0.5137)
