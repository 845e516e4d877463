"""Labels as people write them, and settings for their clips: what is read, what is refused, and where it says so."""

from __future__ import annotations

import csv
from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks.labels import Kind, Label, LabelledClip, find_clips
from benchmarks.settings import CameraTable, scorable
from pipeline.exceptions import ConfigError

HEADER = "clip,kind,group,fixed_camera,event,start_s,end_s,box,notes\n"


def put(folder: Path, name: str, text: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


def only(folder: Path) -> LabelledClip:
    clips = find_clips([folder])
    assert len(clips) == 1
    return clips[0]


def label_of(clip: LabelledClip) -> Label:
    assert clip.problems == ()
    assert clip.label is not None
    return clip.label


def spans(label: Label) -> list[tuple[str, float, float]]:
    return [(event.scenario, event.start_s, event.end_s) for event in label.events]


def test_rows_of_a_table_are_events(tmp_path: Path) -> None:
    put(
        tmp_path,
        "labels.csv",
        HEADER
        + 'fire/a.mp4,real,yard,y,fire,2,8,"0.1,0.2,0.3,0.4","a comma, in a note"\n'
        + "fire/a.mp4,real,yard,y,ebike_in_elevator,1,4,,\n"
        + "fire/b.mp4,generated,yard,n,none,,,,\n",
    )
    put(tmp_path, "fire/a.mp4")
    put(tmp_path, "fire/b.mp4")
    first, second = find_clips([tmp_path])
    label = label_of(first)
    assert (first.name, label.kind, label.group) == ("fire/a.mp4", Kind.REAL, "yard")
    assert spans(label) == [("ebike_in_elevator", 1, 4), ("fire", 2, 8)]
    assert label.events[1].box == (0.1, 0.2, 0.3, 0.4)
    assert label.events[1].place == f"{tmp_path / 'labels.csv'}:2"
    nothing = label_of(second)
    assert (nothing.kind, nothing.events) == (Kind.GENERATED, ())
    assert nothing.conditions == ("moving_camera",)


def test_a_link_to_a_clip_is_labelled_where_the_link_lies(tmp_path: Path) -> None:
    elsewhere = put(tmp_path / "archive", "20260101.mp4")
    put(tmp_path / "clips", "labels.csv", HEADER + "yard.mp4,real,yard,y,fire,2,8,,\n")
    link = tmp_path / "clips" / "yard.mp4"
    link.symlink_to(elsewhere)
    for clips in (find_clips([tmp_path / "clips"]), find_clips([link, tmp_path / "clips"])):
        (clip,) = clips
        assert (clip.name, clip.path) == ("yard.mp4", link)
        assert spans(label_of(clip)) == [("fire", 2, 8)]


def test_a_folder_below_the_table_and_a_single_file_find_it_too(tmp_path: Path) -> None:
    put(
        tmp_path,
        "labels.csv",
        HEADER + "fire/a.mp4,real,,y,none,,,,\nfire/b.mp4,real,,y,none,,,,\n",
    )
    clip = put(tmp_path, "fire/a.mp4")
    assert only(tmp_path / "fire").name == "fire/a.mp4"
    assert [c.name for c in find_clips([clip, tmp_path / "fire"])] == ["fire/a.mp4"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            [("fire", 0, 10), ("smoke", 2, 10)], [("fire", 0, 10)], id="smoke within flame"
        ),
        pytest.param([("fire", 0, 5), ("smoke", 3, 9)], [("fire", 0, 9)], id="overlap"),
        pytest.param([("smoke", 0, 5), ("fire", 5, 9)], [("fire", 0, 9)], id="one into the other"),
        pytest.param(
            [("fire", 0, 3), ("smoke", 6, 9)], [("fire", 0, 3), ("fire", 6, 9)], id="apart"
        ),
        pytest.param(
            [("fire", 0, 3), ("vehicle_stopped", 1, 9), ("smoke", 2, 6)],
            [("fire", 0, 6), ("vehicle_stopped", 1, 9)],
            id="another between",
        ),
    ],
)
def test_flame_and_smoke_that_overlap_are_one_event(
    tmp_path: Path, rows: list[tuple[str, int, int]], expected: list[tuple[str, int, int]]
) -> None:
    put(
        tmp_path,
        "labels.csv",
        HEADER + "".join(f"a.mp4,real,,y,{e},{s},{t},,\n" for e, s, t in rows),
    )
    put(tmp_path, "a.mp4")
    assert spans(label_of(only(tmp_path))) == expected


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        pytest.param(
            "a.mp4,real,,y,fier,1,2,,", "event: found 'fier', expected one of", id="unknown event"
        ),
        pytest.param(
            "a.mp4,reel,,y,fire,1,2,,",
            "kind: found 'reel', expected one of real",
            id="unknown kind",
        ),
        pytest.param(
            "a.mp4,real,,y,fire,x,2,,", "start_s: found 'x', expected seconds", id="no number"
        ),
        pytest.param(
            "a.mp4,real,,y,fire,-1,2,,", "start_s: found '-1', expected seconds", id="negative"
        ),
        pytest.param(
            "a.mp4,real,,y,fire,1,nan,,", "end_s: found 'nan', expected seconds", id="not finite"
        ),
        pytest.param(
            "a.mp4,real,,y,fire,4,2,,",
            "end_s: found 2, expected more than start_s 4",
            id="backwards",
        ),
        pytest.param(
            'a.mp4,real,,y,fire,1,2,"0.5,0.1,0.2,0.9",',
            "box: found '0.5,0.1,0.2,0.9', expected",
            id="box backwards",
        ),
        pytest.param(
            'a.mp4,real,,y,fire,1,2,"0,0,1",', "box: found '0,0,1', expected", id="box of three"
        ),
        pytest.param(
            "a.mp4,real,,y,none,,,,\na.mp4,real,,y,fire,1,2,,",
            "found both none and an event",
            id="none and an event",
        ),
        pytest.param(
            "a.mp4,real,,y,fire,1,2,,\na.mp4,derived,,y,smoke,1,2,,",
            "kind: found derived, expected real",
            id="two kinds",
        ),
    ],
)
def test_a_broken_row_names_file_line_and_fault_and_costs_its_clip_only(
    tmp_path: Path, row: str, fault: str
) -> None:
    table = put(tmp_path, "labels.csv", HEADER + "b.mp4,real,,y,none,,,,\n" + row + "\n")
    put(tmp_path, "a.mp4")
    put(tmp_path, "b.mp4")
    broken, well = find_clips([tmp_path])
    assert broken.label is None
    line = 3 + row.count("\n")
    assert any(p.startswith(f"{table}:{line}: ") and fault in p for p in broken.problems)
    assert well.problems == ()


def test_a_table_without_its_columns_is_refused_as_a_whole(tmp_path: Path) -> None:
    table = put(tmp_path, "labels.csv", "file,event\n")
    put(tmp_path, "a.mp4")
    with pytest.raises(ConfigError, match="found no column clip, start_s, end_s") as caught:
        find_clips([tmp_path])
    assert str(table) in str(caught.value)


def test_what_is_labelled_and_absent_or_present_and_unlabelled_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "labels.csv", HEADER + "gone.mp4,real,,y,none,,,,\n")
    put(tmp_path, "new.mp4")
    gone, new = find_clips([tmp_path])
    assert "found no file gone.mp4" in gone.problems[0]
    assert "no label" in new.problems[0]


def test_nothing_to_look_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no video file"):
        find_clips([tmp_path])
    with pytest.raises(ConfigError, match="found nothing"):
        find_clips([tmp_path / "absent"])


def test_a_file_beside_the_clip_is_its_label(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    put(
        tmp_path,
        "a.yaml",
        """\
        clip: a.mp4
        simulated: true
        seed: 7
        conditions: [night, rain]
        events:
          - {scenario: fire, start_s: 1.5, end_s: 4, box: [0.1, 0.2, 0.3, 0.4]}
        """,
    )
    label = label_of(only(tmp_path))
    assert (label.kind, label.group, label.conditions) == (
        Kind.SIMULATED,
        "a.mp4",
        ("night", "rain"),
    )
    assert spans(label) == [("fire", 1.5, 4)]
    assert label.events[0].place == f"{tmp_path / 'a.yaml'}:6"


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        pytest.param(
            "events:\n  - {scenario: fier, start_s: 1, end_s: 2}\n",
            2,
            "found 'fier'",
            id="unknown scenario",
        ),
        pytest.param(
            "events:\n  - scenario: fire\n    start_s: 3\n    end_s: 2\n",
            2,
            "expected end_s after start_s",
            id="backwards",
        ),
        pytest.param(
            "events:\n  - scenario: fire\n    start_s: soon\n    end_s: 2\n",
            3,
            "events[0].start_s",
            id="no number",
        ),
        pytest.param(
            "clip: b.mp4\nevents: []\n",
            1,
            "found b.mp4, expected the clip beside it",
            id="another clip",
        ),
        pytest.param("kind: reel\nevents: []\n", 1, "kind: input should be", id="unknown kind"),
        pytest.param("events: []\nevent: x\n", 2, "unknown key", id="unknown key"),
        pytest.param("events: [\n", 2, "not valid YAML", id="no YAML"),
    ],
)
def test_a_broken_file_names_its_line(tmp_path: Path, text: str, line: int, fault: str) -> None:
    put(tmp_path, "a.mp4")
    sidecar = put(tmp_path, "a.yaml", text)
    clip = only(tmp_path)
    assert clip.label is None
    assert clip.problems[0].startswith(f"{sidecar}:{line}: ")
    assert fault in clip.problems[0]


def test_a_clip_labelled_twice_is_not_scored(tmp_path: Path) -> None:
    put(tmp_path, "labels.csv", HEADER + "a.mp4,real,,y,none,,,,\n")
    put(tmp_path, "a.mp4")
    put(tmp_path, "a.yaml", "events: []\n")
    assert "labelled in" in only(tmp_path).problems[0]


# -- settings ----------------------------------------------------------------------------------------------------------

PARKING = """\
site: {id: s}
cameras:
  - id: kerb
    url: kerb/*.mp4
    scenarios:
      illegal_parking: {raise_after: 10s, zones: {lane: [[0, 0.5], [0.5, 0.5], [0.5, 1], [0, 1]]}}
  - id: rest
    url: "*"
    scenarios: [fire]
"""


def test_the_first_camera_whose_pattern_fits_gives_the_settings(tmp_path: Path) -> None:
    settings = put(tmp_path, "elsewhere/site.yaml", PARKING)
    clips = tmp_path / "clips"
    put(clips, "labels.csv", HEADER + "kerb/a.mp4,real,,y,none,,,,\nfire/b.mp4,real,,y,none,,,,\n")
    put(clips, "kerb/a.mp4")
    put(clips, "fire/b.mp4")
    table = CameraTable(settings)
    fire, kerb = (table.camera_for(clip) for clip in find_clips([clips]))
    assert (fire.id, list(fire.scenarios)) == ("rest", ["fire"])
    assert (kerb.id, list(kerb.scenarios)) == ("kerb", ["illegal_parking"])
    assert kerb.stream.analysed_url == str(clips / "kerb" / "a.mp4")
    assert (kerb.stream.pace, kerb.health) == ("virtual", None)


def test_a_clip_without_settings_is_told_what_to_do(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    put(tmp_path, "a.yaml", "events: []\n")
    with pytest.raises(ConfigError, match=r"a\.mp4: found no camera settings.*--settings"):
        CameraTable(None).camera_for(only(tmp_path))


def test_a_clip_brings_its_own_settings_or_names_a_camera(tmp_path: Path) -> None:
    settings = put(tmp_path, "site.yaml", PARKING)
    put(tmp_path, "clips/a.mp4")
    put(tmp_path, "clips/a.yaml", "events: []\ncamera:\n  scenarios: {fire: {raise_after: 2s}}\n")
    put(tmp_path, "clips/b.mp4")
    put(tmp_path, "clips/b.yaml", "events: []\ncamera: kerb\n")
    table = CameraTable(settings)
    own, named = (table.camera_for(clip) for clip in find_clips([tmp_path / "clips"]))
    assert own.scenarios["fire"].raise_after == 2.0
    assert named.id == "kerb"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(
            "camera:\n  scenarios:\n    fire: {raise_after: soon}\n",
            ":4: camera.scenarios.fire.raise_after",
            id="bad value",
        ),
        pytest.param(
            "camera:\n  scenarios:\n    fier: {}\n",
            ":4: camera.scenarios.fier: scenario 'fier' is not installed",
            id="unknown scenario",
        ),
        pytest.param(
            "camera: gone\n", ":2: camera: found 'gone', expected a camera of", id="unknown camera"
        ),
        pytest.param("camera: {scenarios: {}}\n", "runs no scenario", id="no scenario"),
    ],
)
def test_wrong_settings_in_a_label_name_their_line(tmp_path: Path, text: str, fault: str) -> None:
    put(tmp_path, "a.mp4")
    put(tmp_path, "a.yaml", "events: []\n" + text)
    with pytest.raises(ConfigError) as caught:
        CameraTable(None).camera_for(only(tmp_path))
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(
            'vehicle_stopped,0,30,"0.1,0.5,0.3,0.9"', None, id="stands in the zone long enough"
        ),
        pytest.param(
            'vehicle_stopped,0,8,"0.1,0.5,0.3,0.9"', "less than the dwell of 10 s", id="too short"
        ),
        pytest.param('vehicle_stopped,0,30,"0.6,0.5,0.9,0.9"', "outside all zones", id="outside"),
        pytest.param("vehicle_stopped,0,30,", "the label has no box", id="nobody knows where"),
        pytest.param("illegal_parking,0,8,", None, id="labelled as illegal parking"),
        pytest.param("fire,0,8,", "fire does not run on this clip", id="another scenario"),
    ],
)
def test_a_stopped_vehicle_is_illegal_parking_through_zone_and_dwell_only(
    tmp_path: Path, event: str, reason: str | None
) -> None:
    settings = put(tmp_path, "site.yaml", PARKING)
    put(tmp_path, "labels.csv", "clip,event,start_s,end_s,box\nkerb/a.mp4," + event + "\n")
    put(tmp_path, "kerb/a.mp4")
    clip = only(tmp_path)
    result = scorable(label_of(clip), CameraTable(settings).camera_for(clip))
    if reason is None:
        assert [e.scenario for e in result.events] == ["illegal_parking"]
        assert result.unscored == ()
    else:
        assert result.events == ()
        assert reason in result.unscored[0][1]


def test_the_real_labels_are_read_as_they_are(real_material: Path) -> None:
    clips = find_clips([real_material / "clips"])
    with (real_material / "clips" / "labels.csv").open(encoding="utf-8") as text:
        listed = {row["clip"] for row in csv.DictReader(text)}
    labelled = {clip.name: label_of(clip) for clip in clips if clip.label is not None}
    assert labelled.keys() == listed
    assert all("no label" in clip.problems[0] for clip in clips if clip.label is None)
    assert spans(labelled["fire/chrysite-lorry-fire.mp4"]) == [("fire", 0, 3)]
