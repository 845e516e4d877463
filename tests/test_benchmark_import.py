from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.importers import import_labels, write_csv
from benchmarks.labels import Kind, find_clips
from benchmarks.skeleton import contact_sheet, make_skeletons
from pipeline.exceptions import CaptureError, ConfigError
from tests.media import write_clip

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>7</id><name>yard</name><size>50</size><source>yard.mp4</source>
    <original_size><width>640</width><height>320</height></original_size></task></meta>
  <track id="0" label="flame" source="manual">
    <box frame="10" outside="0" xtl="64" ytl="32" xbr="320" ybr="160"/>
    <box frame="20" outside="0" xtl="70" ytl="32" xbr="320" ybr="160"/>
    <box frame="21" outside="1" xtl="70" ytl="32" xbr="320" ybr="160"/>
    <box frame="30" outside="0" xtl="0" ytl="0" xbr="64" ybr="32"/>
  </track>
  <track id="1" label="cat" source="manual"><box frame="0" outside="0" xtl="0" ytl="0" xbr="9" ybr="9"/></track>
</annotations>"""

ILIDS = """<IlidsLibraryIndex><Library><Scenario>illegal_parking</Scenario>
  <Clip><Header><Filename>PVTEA101a.mp4</Filename><Duration>00:10:00</Duration></Header>
    <Alarms><Alarm><StartTime>00:01:10</StartTime><AlarmDuration>00:00:35</AlarmDuration></Alarm></Alarms></Clip>
  <Clip><Header><Filename>PVTEN201a.mp4</Filename></Header><Alarms/></Clip>
</Library></IlidsLibraryIndex>"""

LABEL_STUDIO = [
    {
        "id": 3,
        "data": {"video": "/data/upload/1/0a1b2c3d-lift.mp4"},
        "annotations": [
            {
                "result": [
                    {
                        "type": "timelinelabels",
                        "value": {
                            "ranges": [{"start": 11, "end": 20}],
                            "timelinelabels": ["ebike"],
                        },
                    },
                    {
                        "type": "videorectangle",
                        "value": {
                            "framesCount": 50,
                            "duration": 5.0,
                            "labels": ["ebike"],
                            "sequence": [
                                {
                                    "frame": 31,
                                    "time": 3.0,
                                    "enabled": True,
                                    "x": 10,
                                    "y": 20,
                                    "width": 30,
                                    "height": 40,
                                },
                                {
                                    "frame": 41,
                                    "time": 4.0,
                                    "enabled": False,
                                    "x": 10,
                                    "y": 20,
                                    "width": 30,
                                    "height": 40,
                                },
                            ],
                        },
                    },
                ]
            }
        ],
    },
    {
        "id": 4,
        "data": {"video": "/data/local-files/?d=clips/empty.mp4"},
        "annotations": [{"result": []}],
    },
]


def put(folder: Path, text: str, name: str = "export.xml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_cvat_tracks_become_one_event_per_visible_stretch(tmp_path: Path) -> None:
    events = import_labels(
        put(tmp_path, CVAT), tmp_path, {"flame": "fire", "cat": "ignore"}, fps=10
    )
    assert [(e.word, e.start_s, e.end_s) for e in events] == [
        ("fire", 1.0, 2.1),
        ("fire", 3.0, 3.1),
    ]
    assert events[0].box == (0.1, 0.1, 0.5, 0.5)
    assert {e.clip for e in events} == {"yard.mp4"}


def test_frames_become_seconds_by_the_clips_own_time_stamps(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_clip(
        tmp_path / "in" / "yard.mp4",
        [np.full((64, 96, 3), 4 * k, np.uint8) for k in range(50)],
        rate_hz=5,
    )
    events = import_labels(put(tmp_path, CVAT), tmp_path, {"flame": "fire", "cat": "ignore"})
    assert [e.start_s for e in events] == pytest.approx([2.0, 6.0])
    write_csv(events, tmp_path)
    (clip,) = find_clips([tmp_path])
    assert clip.name == "in/yard.mp4"
    assert clip.label is not None
    assert [event.scenario for event in clip.label.events] == ["fire", "fire"]
    with pytest.raises(ConfigError, match=r"labels\.csv: exists already"):
        write_csv(events, tmp_path)


def test_ilids_clips_bring_their_alarms_and_the_quiet_ones(tmp_path: Path) -> None:
    events = import_labels(put(tmp_path, ILIDS), tmp_path, {})
    assert [(e.clip, e.word, e.start_s, e.end_s) for e in events] == [
        ("PVTEA101a.mp4", "illegal_parking", 70.0, 105.0),
        ("PVTEN201a.mp4", None, 0.0, None),
    ]
    assert "PVTEN201a.mp4,none" in write_csv(events, tmp_path).read_text()


def test_label_studio_timelines_and_rectangles(tmp_path: Path) -> None:
    file = put(tmp_path, json.dumps(LABEL_STUDIO), "export.json")
    events = import_labels(file, tmp_path, {"ebike": "ebike_in_elevator"}, fps=10)
    assert [(e.clip, e.word, e.start_s, e.end_s) for e in events] == [
        ("empty.mp4", None, 0.0, None),
        ("lift.mp4", "ebike_in_elevator", 1.0, 2.0),
        ("lift.mp4", "ebike_in_elevator", 3.0, 4.0),
    ]
    assert events[2].box == pytest.approx((0.1, 0.2, 0.4, 0.6))


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (CVAT, {}, "track 1: found the label 'cat', expected one of .*--map 'cat=...'"),
        (CVAT, {"flame": "fyre"}, "--map: found 'fyre', expected one of"),
        ("<annotations><meta/></annotations>", {}, "meta: found no task"),
        ("<annotations><image id='0'/></annotations>", {}, "export as 'CVAT for video 1.1'"),
        ("<other/>", {}, "found <other>, expected CVAT's <annotations>"),
        ("<annotations>", {}, "is not valid XML or JSON"),
        ("[1, 2", {}, "is not valid JSON"),
        ('[{"id": 1}]', {}, "task 1: found KeyError: 'data', expected Label Studio's export"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotations/>", {}, "found a document type"),
        (
            ILIDS.replace("00:01:10", "soon"),
            {},
            "PVTEA101a.mp4: StartTime: found 'soon', expected hh:mm:ss",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(
    tmp_path: Path, text: str, words: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        import_labels(put(tmp_path, text), tmp_path, words, fps=10)
    assert "\n" not in str(caught.value)


def test_a_missing_clip_is_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found no clip yard\.mp4 .*--fps"):
        import_labels(put(tmp_path, CVAT), tmp_path, {"flame": "fire", "cat": "ignore"})


def test_a_skeleton_does_not_label_its_clip_until_it_is_filled_in(tmp_path: Path) -> None:
    write_clip(
        tmp_path / "a.mp4", [np.full((64, 96, 3), 9 * k, np.uint8) for k in range(25)], rate_hz=5
    )
    (tmp_path / "broken.mp4").write_text("no video")
    made = {skeleton.clip.name: skeleton for skeleton in make_skeletons([tmp_path])}
    assert made["a.mp4"].label == tmp_path / "a.yaml"
    assert made["broken.mp4"].label is None
    assert "broken.mp4" in made["broken.mp4"].problem
    picture, length_s = contact_sheet(tmp_path / "a.mp4")
    assert length_s == pytest.approx(4.8)
    assert picture.shape[1] == 4 * 320
    assert picture[:200, :320].mean() < picture[-200:, -320:].mean()

    assert find_clips([tmp_path])[0].label is None
    text = (tmp_path / "a.yaml").read_text()
    filled = text.replace("# events:", "events:").replace("#   - {", "  - {")
    (tmp_path / "a.yaml").write_text(filled)
    (clip, _) = find_clips([tmp_path])
    assert clip.problems == ()
    assert clip.label is not None
    assert (clip.label.kind, clip.label.group) == (Kind.REAL, "a")
    assert [event.scenario for event in clip.label.events] == ["fire"]
    # What somebody has written is never written over.
    make_skeletons([tmp_path])
    assert (tmp_path / "a.yaml").read_text() == filled


def test_a_contact_sheet_of_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"b\.mp4: cannot be read"):
        contact_sheet(tmp_path / "b.mp4")
