"""The simulator's parts that need no Blender: seeds, projection, labels, props, fluid, clip labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from benchmarks.scenes import gear, rides, vehicles
from benchmarks.scenes.cabin import Cabin, Footprint
from benchmarks.scenes.camera import (
    MIN_VISIBLE,
    Camera,
    Label,
    label_of,
    mask_box,
    silhouette,
    yolo_line,
)
from benchmarks.scenes.clips import Clip, Event, ease, encode, label_yaml
from benchmarks.scenes.gear import Gear
from benchmarks.scenes.mesh import Material, Mesh, box, placement
from benchmarks.scenes.people import Look, person, standing, two_bone, walking
from benchmarks.scenes.plume import Burn, Plume, paint_plume
from benchmarks.scenes.rides import Ride
from benchmarks.scenes.river import DISCHARGES, Ripples, Spill
from benchmarks.scenes.sensor import Sensor, burn_text, jpeg
from benchmarks.scenes.street import Street
from benchmarks.scenes.yard_fire import Yard

Array = NDArray[np.float64]
GREY = Material((0.5, 0.5, 0.5))
SIZE = (448, 252)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "draw", [Cabin.draw, Street.draw, Yard.draw], ids=["cabin", "street", "yard"]
)
def test_a_seed_gives_the_same_scene_and_another_seed_another(draw: Callable[..., object]) -> None:
    assert draw(5, size=SIZE) == draw(5, size=SIZE)
    assert draw(5, size=SIZE) != draw(6, size=SIZE)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_a_cabin_is_one_that_could_be_built(seed: int) -> None:
    cabin = Cabin.draw(seed, size=SIZE)
    x, y, z = cabin.camera.location
    assert abs(x) < cabin.width / 2
    assert 0 < y < cabin.depth
    assert 0 < z < cabin.height
    assert abs(cabin.door_x) + cabin.door_width / 2 <= cabin.width / 2  # the door lies in its wall
    assert 0 <= cabin.door_open <= 1


def test_importing_the_scenes_does_not_import_blender() -> None:
    code = "import sys, benchmarks.scenes.cabin, benchmarks.scenes.street, benchmarks.scenes.yard_fire, benchmarks.scenes.river; print('bpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "False"


@pytest.mark.skipif("bpy" in sys.modules, reason="Blender is installed here")
def test_rendering_without_blender_says_where_to_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks.scenes.__main__ import main

    assert main(["render", "cabin", "--seed", "1", "--stills", "1", "--out", str(tmp_path)]) == 2
    assert "README.md" in capsys.readouterr().err


# -- projection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lens", ["perspective", "equisolid"])
def test_the_target_is_in_the_middle_and_the_field_of_view_ends_at_the_edge(
    lens: Literal["perspective", "equisolid"],
) -> None:
    camera = Camera((0, 0, 2), (0, 10, 2), 90.0, 640, 360, lens)
    pixels, depth = camera.project([[0, 10, 2], [10, 10, 2], [-10, 10, 2], [0, 10, 3]])
    assert pixels[0] == pytest.approx([320, 180])
    assert depth[0] == pytest.approx(10)
    assert pixels[1] == pytest.approx([640, 180])
    assert pixels[2] == pytest.approx([0, 180])
    assert pixels[3][1] < 180  # up in the world is up in the picture


def test_a_pinhole_does_not_see_behind_itself() -> None:
    pixels, _ = Camera((0, 0, 2), (0, 10, 2), 90.0, 640, 360).project([[0.5, -3, 2]])
    assert np.isnan(pixels).all()


@given(roll=st.floats(-30, 30), x=st.floats(-5, 5), y=st.floats(3, 9), z=st.floats(0, 4))
def test_axes_are_orthonormal_and_depth_is_along_the_view(
    roll: float, x: float, y: float, z: float
) -> None:
    camera = Camera((0, 0, 3), (1, 8, 0.5), 70.0, 640, 360, roll_deg=roll)
    assert camera.axes @ camera.axes.T == pytest.approx(np.eye(3), abs=1e-9)
    point = np.array([x, y, z])
    assert camera.project(point[None])[1][0] == pytest.approx(-(point - [0, 0, 3]) @ camera.axes[2])


# -- labels ------------------------------------------------------------------------------------------------------------


@given(mask=arrays(bool, (13, 17)))
def test_a_mask_box_is_tight(mask: NDArray[np.bool_]) -> None:
    found = mask_box(mask)
    if found is None:
        assert not mask.any()
        return
    x1, y1, x2, y2 = map(int, found)
    assert mask[y1:y2, x1:x2].sum() == mask.sum()
    assert mask[y1, :].any()
    assert mask[y2 - 1, :].any()
    assert mask[:, x1].any()
    assert mask[:, x2 - 1].any()


@given(x1=st.integers(0, 400), y1=st.integers(0, 200), w=st.integers(1, 40), h=st.integers(1, 40))
def test_a_yolo_line_gives_the_box_back(x1: int, y1: int, w: int, h: int) -> None:
    label, cx, cy, bw, bh = map(
        float, yolo_line(Label(2, (x1, y1, x1 + w, y1 + h), 1.0), 448, 252).split()
    )
    assert label == 2
    back = ((cx - bw / 2) * 448, (cy - bh / 2) * 252, (cx + bw / 2) * 448, (cy + bh / 2) * 252)
    assert back == pytest.approx((x1, y1, x1 + w, y1 + h), abs=1e-3)


def test_a_thing_mostly_hidden_gets_no_label_and_one_half_hidden_gets_the_box_of_what_is_seen() -> (
    None
):
    camera = Camera((0, -6, 1), (0, 0, 1), 60.0, 320, 180)
    cube = Mesh([box([0, 0, 1], [1, 1, 1], GREY)])
    seen = silhouette(cube, camera, margin=0)
    around = mask_box(seen)
    assert around is not None
    left, _, right, _ = around
    middle = round((left + right) / 2)
    half = seen.copy()
    half[:, middle:] = False
    label = label_of(2, half, cube, camera)
    assert label is not None
    assert label.xyxy[2] == middle
    assert label.visible == pytest.approx(0.5, abs=0.05)
    sliver = seen.copy()
    sliver[:, round(left + (right - left) * MIN_VISIBLE * 0.8) :] = False
    assert label_of(2, sliver, cube, camera) is None
    assert label_of(2, np.zeros_like(seen), cube, camera) is None


def test_what_lies_outside_the_frame_counts_as_hidden() -> None:
    camera = Camera((0, -6, 1), (0, 0, 1), 60.0, 320, 180)
    inside = Mesh([box([0, 0, 1], [1, 1, 1], GREY)])
    cut = inside.moved(placement(x=3.45))
    labels = [
        label_of(0, silhouette(mesh, camera, margin=0), mesh, camera) for mesh in (inside, cut)
    ]
    assert labels[0] is not None
    assert labels[0].visible == pytest.approx(1.0)
    assert labels[1] is not None
    assert labels[1].visible < 0.75
    assert labels[1].xyxy[2] == 320


# -- props -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", rides.EBIKE_KINDS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_e_bikes_stand_on_the_ground_and_have_the_size_of_e_bikes(kind: str, seed: int) -> None:
    ride = rides.ebike(seeded(seed), kind)
    low, high = ride.mesh.vertices().min(axis=0), ride.mesh.vertices().max(axis=0)
    assert low[2] == pytest.approx(0, abs=0.03)
    assert 1.2 < high[0] - low[0] < 2.4
    assert 0.4 < high[1] - low[1] < 1.1
    assert 0.75 < high[2] < 1.7
    assert ride.grips[0, 1] > ride.grips[1, 1]  # left, right
    assert ride.seat[2] < ride.grips[:, 2].mean() + 0.15


@pytest.mark.parametrize(
    "make",
    [
        gear.stroller,
        gear.wheelchair,
        gear.suitcase,
        gear.carton_stack,
        gear.trolley,
        rides.kick_scooter,
    ],
)
def test_gear_stands_on_the_ground(make: Callable[[np.random.Generator], Gear | Ride]) -> None:
    for seed in range(6):
        vertices = make(seeded(seed)).mesh.vertices()
        assert np.isfinite(vertices).all()
        assert vertices[:, 2].min() == pytest.approx(0, abs=0.05)
        assert vertices[:, 2].max() < 2.3


@pytest.mark.parametrize("kind", vehicles.CAR_KINDS)
def test_cars_have_the_size_of_cars(kind: str) -> None:
    for seed in range(4):
        extent = np.ptp(vehicles.car(seeded(seed), kind).mesh.vertices(), axis=0)
        assert 3.4 < extent[0] < 5.4
        assert 1.6 < extent[1] < 2.3
        assert 1.35 < extent[2] < 2.1


def test_faces_refer_to_vertices_of_their_part() -> None:
    for mesh in (
        rides.ebike(seeded(), "scooter").mesh,
        vehicles.bus(seeded()).mesh,
        vehicles.truck(seeded()).mesh,
    ):
        for part in mesh.parts:
            assert max(map(max, part.faces)) < len(part.vertices)
            assert min(map(min, part.faces)) >= 0


point = arrays(float, 3, elements=st.floats(-1, 1))


@given(root=point, target=point, upper=st.floats(0.2, 0.5), lower=st.floats(0.2, 0.5), bend=point)
def test_two_bones_keep_their_lengths_and_reach_what_is_in_reach(
    root: Array, target: Array, upper: float, lower: float, bend: Array
) -> None:
    middle, end = two_bone(root, target, upper, lower, bend)
    distance = np.linalg.norm(target - root)
    if distance < 1e-6:
        return
    assert np.linalg.norm(middle - root) == pytest.approx(upper, abs=1e-6)
    assert np.linalg.norm(end - middle) == pytest.approx(lower, abs=1e-6)
    if abs(upper - lower) + 1e-3 < distance < upper + lower - 1e-3:
        assert end == pytest.approx(target, abs=1e-6)


@given(seed=st.integers(0, 10**6), phase=st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_people_are_as_tall_as_they_say(seed: int, phase: float) -> None:
    rng = seeded(seed)
    look = Look.draw(rng, child=bool(seed % 2))
    for pose in (standing(rng, look), walking(look, phase)):
        vertices = person(look, pose).vertices()
        assert vertices[:, 2].max() == pytest.approx(look.height, abs=0.13)
        assert -0.06 < vertices[:, 2].min() < 0.1


def test_a_footprint_knows_its_distance() -> None:
    spot = Footprint(1.0, 2.0, np.pi / 2, 1.8, 0.6)  # long side along y
    assert spot.distance(np.array([[1.0, 2.8], [1.5, 2.0], [1.0, 3.4]])) == pytest.approx(
        [0.0, 0.2, 0.5]
    )
    assert spot.distance(spot.outline()) == pytest.approx(np.zeros(28), abs=1e-9)


# -- camera, flame, water ----------------------------------------------------------------------------------------------


def test_the_sensor_makes_grey_pictures_in_the_dark_and_text_is_burnt_in() -> None:
    picture = seeded().integers(0, 255, (120, 200, 3)).astype(np.uint8)
    night = Sensor.draw(seeded(3), infrared=True).expose(picture, seeded())
    assert night.shape == picture.shape
    assert night.dtype == np.uint8
    assert (night.max(axis=-1) == night.min(axis=-1)).all()
    marked = burn_text(picture, ("2026-03-14 08:15:00", "SIMULATION"))
    changed = (marked != picture).any(axis=-1)
    assert changed[:40, :120].any()
    assert changed[-40:, 80:].any()
    assert not changed[50:70].any()
    assert jpeg(picture, 60)[:2] == b"\xff\xd8"


def test_a_plume_grows_rises_flickers_and_stays_finite() -> None:
    plume = Plume(Burn(0.8, 1.1, 1.0, 0.1, 0.3), seeded(4))
    assert plume.glow() == 0
    tops, glows = [], []
    for k in range(60):
        plume.step(0.05, min(1.0, k / 20))
        hot = np.nonzero((plume.heat > 0.3).any(axis=1))[0]
        tops.append(hot.max() * plume.cell_m if len(hot) else 0.0)
        glows.append(plume.glow())
    assert np.isfinite(plume.heat).all()
    assert np.isfinite(plume.soot).all()
    assert 0.8 < np.mean(tops[-20:]) < 4.0  # about one to five base widths high
    assert np.mean(glows[-20:]) > 3 * np.mean(glows[:10])
    assert np.std(np.diff(glows[-30:])) > 0
    assert plume.soot.max() > 0.1


def test_painting_a_plume_changes_only_where_it_is_and_marks_the_flame() -> None:
    plume = Plume(Burn(0.8, 1.1, 1.5, 0.0, 0.2), seeded(5))
    for _ in range(40):
        plume.step(0.05)
    dark = np.full((180, 320, 3), 0.1, np.float32)
    picture, flame, smoke = paint_plume(dark, plume, (160, 170), 40.0, ambient=0.6)
    assert flame.any()
    assert not (flame & smoke).any()
    assert picture[flame][:, 0].mean() > 0.8 > picture[flame][:, 2].mean()  # red above blue
    ys, xs = np.nonzero(flame)
    assert ys.max() <= 172
    assert 100 < xs.mean() < 220
    assert picture[:, :20] == pytest.approx(dark[:, :20])


def test_a_spill_moves_downstream_only_spreads_and_stays_within_bounds() -> None:
    spill = Spill(seeded(6), x0_m=-10, length_m=40, outfall_m=(0.0, 0.5), speed_m_s=1.5)
    for k in range(80):
        spill.step(k * 0.05, 0.05, 1.0)
    c = spill.concentration
    assert c.min() >= 0
    assert c.max() <= 1.0001
    x = spill.x0_m + np.arange(c.shape[1]) * spill.cell_m
    reached = x[(c > 0.2).any(axis=0)]
    assert reached.min() > -3
    assert 2 < reached.max() < 12
    clean = Spill(seeded(6), x0_m=-10, length_m=40, outfall_m=(0.0, 0.5), speed_m_s=1.5)
    clean.step(0.0, 0.05, 0.0)
    assert clean.concentration.max() == 0
    assert spill.at(np.array([-50.0], np.float32), np.array([1.0], np.float32)) == 0


def test_ripples_move_and_fade_where_a_pixel_covers_many() -> None:
    ripples = Ripples.draw(seeded(7), speed_m_s=1.5)
    x, y = (a.astype(np.float32).ravel() for a in np.mgrid[0:3:40j, 0:3:40j])
    near, far = np.full_like(x, 0.01), np.full_like(x, 5.0)
    a, b = ripples.slopes(x, y, near, 0.0)[0], ripples.slopes(x, y, near, 0.2)[0]
    assert 0.005 < a.std() < 0.2
    assert np.abs(a - b).max() > 0.005
    assert ripples.slopes(x, y, far, 0.0)[0].std() < 0.1 * a.std()


def test_discharges_differ_from_clean_water() -> None:
    assert {"rust", "mud", "milky", "black"} <= DISCHARGES.keys()


# -- clips -------------------------------------------------------------------------------------------------------------


@given(t=st.floats(-5, 15))
def test_ease_is_a_ramp(t: float) -> None:
    assert 0 <= ease(t, 2, 4) <= 1
    assert ease(t, 2, 4) <= ease(t + 0.1, 2, 4)
    assert ease(2, 2, 4) == 0
    assert ease(4, 2, 4) == 1


def made_up_clip() -> Clip:
    def frames() -> Iterator[NDArray[np.uint8]]:
        for k in range(8):
            yield np.full((90, 160, 3), 20 * k, np.uint8)

    event = Event("fire", 0.4, 1.6, (0.1, 0.2, 0.3, 0.4))
    return Clip(
        "fire",
        3,
        5.0,
        {"ebike_in_elevator": {"cabin": ((0.0, 0.0), (1.0, 0.0), (0.5, 1.0))}},
        frames,
        [event],
        Sensor.draw(seeded()),
    )


def test_the_label_file_is_yaml_with_events_and_camera_settings() -> None:
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(label_yaml(made_up_clip(), "fire.mp4"))
    assert read["clip"] == "fire.mp4"
    assert read["simulated"] is True
    assert read["seed"] == 3
    assert read["events"] == [
        {"scenario": "fire", "start_s": 0.4, "end_s": 1.6, "box": [0.1, 0.2, 0.3, 0.4]}
    ]
    assert read["camera"] == {
        "scenarios": {"ebike_in_elevator": {"cabin": [[0, 0], [1, 0], [0.5, 1]]}}
    }


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_encoding_gives_h264_with_a_key_frame_a_second(tmp_path: Path) -> None:
    path = tmp_path / "clips" / "fire.mp4"
    assert encode(made_up_clip(), path) == 8
    assert [p.name for p in path.parent.iterdir()] == ["fire.mp4"]
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-show_packets", "-of", "json", str(path)],
        capture_output=True,
        check=True,
    )
    seen = json.loads(probe.stdout)
    stream = seen["streams"][0]
    assert len(seen["streams"]) == 1
    assert stream["codec_name"] == "h264"
    assert stream["pix_fmt"] == "yuv420p"
    assert (stream["width"], stream["height"], stream["r_frame_rate"]) == (160, 90, "5/1")
    assert len(seen["packets"]) == 8
    keys = [float(p["pts_time"]) for p in seen["packets"] if p["flags"].startswith("K")]
    assert 0.0 in keys
    assert 1.0 in keys


# -- the shipped clips -------------------------------------------------------------------------------------------------

CLIPS = Path(__file__).parents[1] / "gridwatch" / "clips"
SCENARIOS = ("ebike_in_elevator", "illegal_parking", "fire", "river_discoloration")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_shipped_clip_is_small_labelled_and_begins_without_its_event(scenario: str) -> None:
    yaml = pytest.importorskip("yaml")
    av = pytest.importorskip("av")
    movie, label = (
        CLIPS / f"{scenario}.mp4",
        yaml.safe_load((CLIPS / f"{scenario}.yaml").read_text()),
    )
    assert movie.stat().st_size < 1_200_000
    assert label["clip"] == movie.name
    assert label["simulated"] is True
    assert 1 <= label["seed"] <= 99
    with av.open(str(movie)) as container:
        stream = container.streams.video[0]
        length_s = float(stream.duration * stream.time_base)
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 640, 360)
        assert not container.streams.audio
    (event,) = label["events"]
    assert event["scenario"] == scenario
    assert 2.0 < event["start_s"] < event["end_s"] - 5
    assert event["end_s"] == pytest.approx(length_s, abs=0.2)
    x1, y1, x2, y2 = event["box"]
    assert 0 <= x1 < x2 <= 1
    assert 0 <= y1 < y2 <= 1
    assert list(label["camera"]["scenarios"]) == [scenario]
