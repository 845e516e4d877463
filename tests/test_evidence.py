"""Evidence is whole or absent, kept as agreed, and shown through signed links alone."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from alerts import evidence as evidence_module
from alerts.evidence import EvidenceSettings, EvidenceStore, load_key, sign, thumbnail, verify
from alerts.evidence_server import EvidenceServer
from alerts.privacy import Privacy, PrivacySettings
from alerts.tickets import THUMBNAIL_CHARACTERS, seconds
from pipeline.exceptions import EvidenceError
from pipeline.frame import Image

T = 1_800_000_000.25  # 2027-01-15T08:00:00.250Z
KEY = bytes(range(32))
BOX = (0.25, 0.25, 0.75, 0.75)


def noise(height: int = 270, width: int = 480) -> Image:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(path: Path) -> Image:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image, np.uint8)


def store_in(folder: Path, key: bytes | None = None, **settings: object) -> EvidenceStore:
    chosen = EvidenceSettings.model_validate({"min_free": 0, **settings})
    return EvidenceStore(chosen, folder / "evidence", key, clock=lambda: T)


def test_a_picture_is_kept_plain_and_with_its_boxes(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    image = np.full((270, 480, 3), 60, np.uint8)
    (plain, drawn), small = store.save_picture("lift-1", T, image, [BOX], ["ebike"])
    assert plain.path == "2027-01-15/lift-1/20270115T080000.250Z.jpg"
    assert drawn.path == "2027-01-15/lift-1/20270115T080000.250Z-boxes.jpg"
    for item in (plain, drawn):
        data = (store.folder / item.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item.sha256
        assert (len(data), item.media_type, item.kind) == (item.size_bytes, "image/jpeg", "picture")
        assert seconds(item.start) == seconds(item.end) == T
        assert item.url is None
    assert np.abs(read(store.folder / plain.path).astype(int) - 60).max() < 5
    edge = read(store.folder / drawn.path)[135, 118:123].astype(int)
    assert edge[:, 2].max() > 180, "the box is drawn"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(small), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded[135, 118:123, 2].max() > 180
    assert not list(store.folder.rglob("*.part"))


def test_fresh_folders_are_on_the_disk_before_their_pictures_path_is_given_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    real = evidence_module._sync_folder

    def sync(folder: Path) -> None:
        synced.append(folder)
        real(folder)

    monkeypatch.setattr(evidence_module, "_sync_folder", sync)
    store = store_in(tmp_path)
    (plain,), _ = store.save_picture("lift-1", T, noise())
    day = store.folder / "2027-01-15"
    assert set(synced) == {tmp_path, store.folder, day, day / "lift-1"}
    assert synced[-1] == (store.folder / plain.path).parent
    synced.clear()
    store.save_picture("lift-1", T, noise())
    assert synced == [day / "lift-1"], "no more than that once they are there"


def test_without_boxes_there_is_one_picture(tmp_path: Path) -> None:
    evidence, _ = store_in(tmp_path).save_picture("lift-1", T, noise())
    assert [item.path[-9:] for item in evidence] == [".250Z.jpg"]


def test_two_pictures_of_one_moment_do_not_overwrite_each_other(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    paths = [store.save_picture("lift-1", T, noise())[0][0].path for _ in range(3)]
    assert len(set(paths)) == 3


@pytest.mark.parametrize("camera", ["../../etc", "a/b", "..", "摄像头", "x" * 60, "a b"])
def test_a_camera_id_cannot_lead_out_of_the_folder(tmp_path: Path, camera: str) -> None:
    store = store_in(tmp_path)
    (item,), _ = store.save_picture(camera, T, noise())
    clip = store.clip_path(camera, T, "../../../x")
    assert (store.folder / item.path).resolve().is_relative_to(store.folder.resolve())
    assert clip.resolve().is_relative_to(store.folder.resolve())
    assert item.path.count("/") == 2


@given(st.integers(2, 2200), st.integers(2, 1300), st.integers(0, 3))
def test_a_thumbnail_always_fits(width: int, height: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    text = thumbnail(image)
    assert len(text) <= 64 * 1024 <= THUMBNAIL_CHARACTERS
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape[1] <= 480


def test_a_limit_that_nothing_meets_is_an_error() -> None:
    with pytest.raises(EvidenceError, match="expected at most 10"):
        thumbnail(noise(), limit=10)


def test_masks_and_heads_are_gone_from_every_artefact(tmp_path: Path) -> None:
    mask = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    burned = Privacy(PrivacySettings(masks=(mask,), blur_heads=True)).burn(
        noise(), [(0.1, 0.1, 0.3, 0.9)]
    )
    store = store_in(tmp_path)
    evidence, small = store.save_picture("lift-1", T, burned, [(0.05, 0.05, 0.45, 0.95)])
    pictures = [read(store.folder / item.path) for item in evidence]
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(small), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    for picture in [*pictures, decoded.astype(np.uint8)]:
        # JPEG rings by a few pixels at the mask's edge; beyond that there is nothing
        assert picture[:, 256:].max() <= 12
        head = picture[30:100, 60:140].astype(float)
        rows = head.reshape(-1, 3)
        assert rows.std(axis=0).max() < 45, "noise has 74; four cells of its means have little"


def test_a_full_disk_is_an_evidence_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvidenceError, match=r"evidence folder .*: No space left on device"):
        store.save_picture("lift-1", T, noise())
    # Now with a folder that is there already.
    with pytest.raises(EvidenceError, match=r"picture 2027.*\.jpg: No space left on device"):
        store.save_picture("lift-1", T, noise())
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_nothing_is_written_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    store = store_in(tmp_path, min_free="1000TB")
    with pytest.raises(EvidenceError, match="bytes free, expected at least"):
        store.save_picture("lift-1", T, noise())
    with pytest.raises(EvidenceError, match="bytes free, expected at least"):
        store.clip_path("lift-1", T, "T1")


def test_a_folder_that_cannot_be_made_is_an_evidence_error(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file is in the way")
    with pytest.raises(EvidenceError, match="evidence folder"):
        store_in(tmp_path).save_picture("lift-1", T, noise())


def test_a_clip_becomes_evidence_once_it_is_on_the_disk(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    path = store.clip_path("lift-1", T, "01J")
    with pytest.raises(EvidenceError, match="No such file"):
        store.clip(path, T, T + 10)
    path.write_bytes(b"film" * 1000)
    item = store.clip(path, T - 5, T + 5)
    assert (item.kind, item.media_type, item.size_bytes) == ("clip", "video/mp4", 4000)
    assert item.sha256 == hashlib.sha256(b"film" * 1000).hexdigest()
    assert (seconds(item.start), seconds(item.end)) == (T - 5, T + 5)


# -- retention


def fill(store: EvidenceStore, *ages_d: float) -> list[str]:
    paths = []
    for age_d in ages_d:
        (item,), _ = store.save_picture("lift-1", T - age_d * 86400, noise(64, 64))
        os.utime(store.folder / item.path, (T - age_d * 86400,) * 2)
        paths.append(item.path)
    return paths


def left(store: EvidenceStore) -> set[str]:
    return {p.relative_to(store.folder).as_posix() for p in store.folder.rglob("*.jpg")}


def test_old_evidence_goes_unless_its_ticket_is_open(tmp_path: Path) -> None:
    store = store_in(tmp_path, keep_days=10)
    oldest, old, young = fill(store, 20, 15, 5)
    result = store.expire(T, {oldest})
    assert left(store) == {oldest, young}
    assert (result.deleted, result.over_bytes) == (1, 0)
    assert not (store.folder / old).parent.exists()


def test_above_the_byte_limit_the_oldest_closed_goes_first(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    paths = fill(store, 5, 4, 3, 2, 1)
    size = (store.folder / paths[0]).stat().st_size
    limited = store_in(tmp_path, keep_bytes=3 * size)
    result = limited.expire(T, {paths[1]})
    assert left(store) == {paths[1], paths[3], paths[4]}
    assert result.kept_bytes == 3 * size


def test_evidence_of_open_tickets_above_the_limit_is_kept_and_said_once(tmp_path: Path) -> None:
    store = store_in(tmp_path, keep_bytes=1)
    paths = fill(store, 2, 1)
    with capture_logs() as logs:
        assert store.expire(T, set(paths)).over_bytes > 0
        store.expire(T, set(paths))
    assert left(store) == set(paths)
    assert [e["event"] for e in logs] == ["evidence of open tickets exceeds its limit"]


def test_what_a_crash_left_unfinished_goes_and_strange_files_stay(tmp_path: Path) -> None:
    store = store_in(tmp_path, keep_days=1)
    fill(store, 0)
    stale, fresh, strange = (store.folder / n for n in (".a.jpg.part", ".b.mp4.part", "notes.txt"))
    for path, age_s in ((stale, 7200), (fresh, 60), (strange, 90 * 86400)):
        path.write_bytes(b"x")
        os.utime(path, (T - age_s,) * 2)
    store.expire(T, set())
    assert (stale.exists(), fresh.exists(), strange.exists()) == (False, True, True)


def test_retention_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert store_in(tmp_path).expire(T, set()).deleted == 0


# -- links


@given(st.text(max_size=50), st.integers(1, 10**12))
def test_a_signature_is_for_one_path_and_one_expiry(path: str, expires: int) -> None:
    signature = sign(path, expires, KEY)
    assert verify(path, expires, signature, KEY, expires - 1)
    assert not verify(path, expires, signature, KEY, expires)
    assert not verify(path + "x", expires, signature, KEY, 0)
    assert not verify(path, expires + 1, signature, KEY, 0)
    assert not verify(path, expires, signature, KEY[::-1], 0)
    assert not verify(path, expires, "ä" + signature[1:], KEY, 0)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "evidence.key"
    key = load_key(file)
    assert load_key(file) == key
    assert len(key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    with pytest.raises(EvidenceError, match="found 5 bytes, expected a key of 32"):
        load_key(file)
    with pytest.raises(EvidenceError, match="No such file"):
        load_key(tmp_path / "missing" / "key")


@pytest.mark.parametrize("listen", ["8089", "localhost:", ":80", "host:port", "host:70000"])
def test_a_wrong_listen_address_is_refused(listen: str) -> None:
    with pytest.raises(ValidationError):
        EvidenceSettings(listen=listen)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[EvidenceStore, EvidenceServer]]:
    store = store_in(tmp_path, KEY, url_base="http://127.0.0.1:1/evidence")
    store.folder.mkdir()
    server = EvidenceServer(store.folder, "127.0.0.1:0", KEY, clock=lambda: T)
    server.start()
    yield store, server
    server.close()


def ask(
    server: EvidenceServer, target: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def link(path: str, expires: int = int(T) + 60, key: bytes = KEY) -> str:
    return f"/{path}?expires={expires}&signature={sign(path, expires, key)}"


def test_a_ticket_carries_a_link_that_works(served: tuple[EvidenceStore, EvidenceServer]) -> None:
    store, server = served
    (item,), _ = store.save_picture("摄像头 1", T, noise())
    assert item.url is not None
    target = item.url.removeprefix("http://127.0.0.1:1/evidence")
    status, body, headers = ask(server, target)
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert hashlib.sha256(body).hexdigest() == item.sha256
    assert headers["Cache-Control"] == "private, no-store"


def test_head_and_ranges_for_video(served: tuple[EvidenceStore, EvidenceServer]) -> None:
    store, server = served
    film = bytes(range(256)) * 1000
    (store.folder / "film.mp4").write_bytes(film)
    target = link("film.mp4")
    status, body, headers = ask(server, target, "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "256000")
    for header, start, end in (
        ("bytes=0-99", 0, 100),
        ("bytes=1000-", 1000, 256_000),
        ("bytes=-500", 255_500, 256_000),
        ("bytes=255990-999999", 255_990, 256_000),
    ):
        status, body, headers = ask(server, target, Range=header)
        assert (status, body) == (206, film[start:end])
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/256000"
    for header in ("bytes=256000-", "bytes=-0", "bytes=5-4"):
        status, body, headers = ask(server, target, Range=header)
        assert (status, headers["Content-Range"]) == (416, "bytes */256000")
    for header in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x"):
        status, body, _ = ask(server, target, Range=header)
        assert (status, len(body)) == (200, 256_000)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/film.mp4", id="no signature"),
        pytest.param("/", id="root"),
        pytest.param(link("film.mp4", int(T) - 1), id="expired"),
        pytest.param(link("film.mp4", key=b"x" * 32), id="another host's key"),
        pytest.param(link("film.mp4") + "0", id="a digit more"),
        pytest.param(link("film.mp4").replace("expires=", "expires=9"), id="expiry prolonged"),
        pytest.param(link("../secret.jpg"), id="parent, signed"),
        pytest.param(link("%2e%2e/secret.jpg"), id="encoded parent"),
        pytest.param("/..%2fsecret.jpg?" + link("../secret.jpg").split("?")[1], id="encoded slash"),
        pytest.param("/" + link("/etc/hostname").lstrip("/"), id="absolute"),
        pytest.param(link("link.jpg"), id="symbolic link out"),
        pytest.param(link("notes.txt"), id="no picture"),
        pytest.param(link("film.mp4").replace("expires=", "expires=-"), id="negative expiry"),
        pytest.param("/film.mp4%00.jpg?" + link("film.mp4\0.jpg").split("?")[1], id="NUL"),
    ],
)
def test_nothing_else_is_shown(served: tuple[EvidenceStore, EvidenceServer], target: str) -> None:
    store, server = served
    (store.folder / "film.mp4").write_bytes(b"film")
    (store.folder / "notes.txt").write_bytes(b"notes")
    (store.folder.parent / "secret.jpg").write_bytes(b"secret")
    (store.folder / "link.jpg").symlink_to(store.folder.parent / "secret.jpg")
    status, body, _ = ask(server, target)
    assert status == 403
    assert b"secret" not in body


def test_a_signed_file_that_is_gone_is_not_found(
    served: tuple[EvidenceStore, EvidenceServer],
) -> None:
    assert ask(served[1], link("gone.jpg"))[0] == 404


def test_only_reading_is_known(served: tuple[EvidenceStore, EvidenceServer]) -> None:
    store, server = served
    (store.folder / "film.mp4").write_bytes(b"film")
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, link("film.mp4"), method)[0] == 501
    assert (store.folder / "film.mp4").exists()


def test_an_address_in_use_is_an_evidence_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EvidenceError, match=f"evidence.listen: {listen}: "):
            EvidenceServer(tmp_path, listen, KEY)
