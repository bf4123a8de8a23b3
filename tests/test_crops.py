"""Crops have the promised geometry, and a store survives processes and interruptions."""

import multiprocessing
import os
import pickle
import shutil
import sqlite3

import cv2
import numpy as np
import pytest
from requirements import case, skip_without

from rbsf.datasets.pairs.crop_store import (
    CROP_SIZE,
    Contents,
    Crop,
    CropStore,
    CropWriter,
    finished_contents,
    make_crop,
)

CAR, CUP = frozenset({("source", "car")}), frozenset({("source", "cup.jpg")})


def plain_crop(frame, value):
    pixels = np.full((CROP_SIZE, CROP_SIZE, 3), value, np.uint8)
    return Crop(frame, (64.0, 32.0), cv2.imencode(".jpg", pixels)[1].tobytes())


def write_store(path, sequences, finish=True):
    """Write `sequences`, a list of (name, kind, list of crops)."""
    with CropWriter(path) as writer:
        for name, kind, crops in sequences:
            writer.add_crops(writer.add_sequence("source", name, kind), crops)
            writer.commit()
        if finish:
            writer.finish()
    return path


@pytest.fixture
def store_path(tmp_path):
    car = ("car", "video", [plain_crop(0, 10), plain_crop(4, 20), plain_crop(8, 30)])
    cup = ("cup.jpg", "still", [plain_crop(0, 200)])
    return write_store(tmp_path / "a b#?.db", [car, cup])


def decode(crop):
    return cv2.cvtColor(
        cv2.imdecode(np.frombuffer(crop.jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )


def test_crop_is_centred_at_exemplar_scale_and_rgb():
    image = np.zeros((240, 320, 3), np.uint8)
    image[80:120, 100:140] = 255, 0, 0  # box 100,80,40,40: the exemplar's square is 80 pixels wide
    crop = make_crop(image, np.array([100.0, 80.0, 40.0, 40.0]), 7)
    pixels = decode(crop)
    assert pixels.shape == (319, 319, 3)
    assert (crop.frame, crop.size) == (7, (63.5, 63.5))  # 40 * 127 / 80
    ys, xs = np.nonzero(pixels[..., 0] > 128)
    assert (xs.min() + xs.max()) / 2 == pytest.approx(159, abs=0.5)
    assert (ys.min() + ys.max()) / 2 == pytest.approx(159, abs=0.5)
    assert xs.max() - xs.min() + 1 == pytest.approx(63.5, abs=1.5)
    assert pixels[159, 159, 0] > 200
    assert pixels[159, 159, 2] < 60


def test_crop_over_the_edge_is_filled_with_the_mean_colour():
    image = np.full((100, 100, 3), 50, np.uint8)
    image[:, :50] = 150
    pixels = decode(make_crop(image, np.array([0.0, 0.0, 40.0, 40.0]), 0))
    assert np.abs(pixels[:100, :100].astype(int) - 100).max() <= 3  # beyond the top left corner
    assert np.abs(pixels[170:200, 170:200].astype(int) - 150).max() <= 3


def test_what_is_written_is_read(store_path):
    store = CropStore(store_path)
    assert len(store) == 4
    assert store.names == ("car", "cup.jpg")
    assert store.kinds == ("video", "still")
    assert store.starts.tolist() == [0, 3, 4]
    assert store.frames.tolist() == [0, 4, 8, 0]
    assert store.sizes.tolist() == [[64, 32]] * 4
    assert [round(store.read(i).mean()) for i in range(4)] == [10, 20, 30, 200]
    assert store.read(0).dtype == np.uint8


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_store(store_path, method):
    if method not in multiprocessing.get_all_start_methods():
        skip_without(method, f"no {method} on this system")
    store = CropStore(store_path)
    store.read(0)  # opens this process's connection, which a child must not use
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(store.jpeg, range(4)) == [store.jpeg(i) for i in range(4)]


def test_a_pickled_store_reads(store_path):
    store = CropStore(store_path)
    store.read(0)
    assert pickle.loads(pickle.dumps(store)).jpeg(3) == store.jpeg(3)


def test_what_is_not_committed_is_not_kept(tmp_path):
    path = write_store(tmp_path / "pairs.db", [("car", "video", [plain_crop(0, 1)])], finish=False)
    with CropWriter(path) as writer:
        writer.add_crops(writer.add_sequence("source", "dog", "video"), [plain_crop(0, 2)])
    with CropWriter(path) as writer:
        assert writer.contents() == Contents(CAR, 1, {("source", "car"): []})


def test_unfinished_store_says_what_to_do(tmp_path):
    path = write_store(tmp_path / "pairs.db", [("car", "video", [plain_crop(0, 1)])], finish=False)
    with pytest.raises(ValueError, match=r"pairs\.db: unfinished crop store; rerun the command"):
        CropStore(path)
    with CropWriter(path) as writer:
        writer.finish()
    assert len(CropStore(path)) == 1


def test_a_finished_store_is_read_until_the_longer_one_is_whole(store_path):
    with CropWriter(store_path) as writer:
        writer.add_crops(writer.add_sequence("source", "dog", "video"), [plain_crop(0, 2)])
        writer.commit()
        assert CropStore(store_path).names == ("car", "cup.jpg")
        writer.finish()
    assert CropStore(store_path).names == ("car", "cup.jpg", "dog")
    assert os.listdir(store_path.parent) == ["a b#?.db"]


def cut_anew(path, value):
    """Put another store of as many crops in the place of one, each crop of this gray value."""
    path.unlink()
    car = ("car", "video", [plain_crop(frame, value) for frame in range(3)])
    write_store(path, [car, ("cup.jpg", "still", [plain_crop(0, value)])])


def test_a_reader_keeps_the_store_that_it_opened(store_path):
    store = CropStore(store_path)
    cut_anew(store_path, 90)
    assert [round(store.read(i).mean()) for i in range(4)] == [10, 20, 30, 200]
    store_path.unlink()
    assert [round(store.read(i).mean()) for i in range(4)] == [10, 20, 30, 200]


def test_a_process_that_opens_a_store_later_refuses_another_one(store_path):
    late = pickle.loads(pickle.dumps(CropStore(store_path)))
    cut_anew(store_path, 90)
    with pytest.raises(ValueError, match=r"\.db: another store took its place while it was being"):
        late.read(0)
    store_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"\.db: no such crop store"):
        late.read(0)


def test_a_store_that_is_overwritten_while_it_is_read_is_refused(store_path, tmp_path):
    store = CropStore(store_path)
    store.read(0)
    other = tmp_path / "other.db"
    write_store(other, [("elk", "video", [plain_crop(frame, 90) for frame in range(4)])])
    store_path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="it was written to while it was being read"):
        store.read(1)


def test_what_was_begun_for_another_store_is_not_gone_on_with(store_path):
    with CropWriter(store_path) as writer:
        writer.add_crops(writer.add_sequence("source", "dog", "video"), [plain_crop(0, 2)])
        writer.commit()
    with CropWriter(store_path) as writer:
        assert (writer.resumed, len(writer.contents().stored)) == (True, 3)
    write_store(store_path.with_name("new.db"), [("elk", "video", [plain_crop(0, 1)])])
    os.replace(store_path.with_name("new.db"), store_path)
    with CropWriter(store_path) as writer:
        assert not writer.resumed
        writer.finish()
    assert CropStore(store_path).names == ("elk",)


def test_sequence_is_replaced_as_a_whole(store_path):
    with CropWriter(store_path) as writer:
        writer.leave_out("source", "car", [2, 6])
        writer.finish()
    with CropWriter(store_path) as writer:
        writer.add_crops(
            writer.add_sequence("source", "car", "video"),
            [plain_crop(k, 50 + k) for k in (0, 2, 4)],
        )
        writer.leave_out("source", "car", [6])
    with CropWriter(store_path) as writer:  # is not committed, so nothing changes
        assert writer.contents() == Contents(
            CAR | CUP, 4, {("source", "car"): [2, 6], ("source", "cup.jpg"): []}
        )
        writer.add_crops(
            writer.add_sequence("source", "car", "video"),
            [plain_crop(k, 50 + k) for k in (0, 2, 4)],
        )
        writer.leave_out("source", "car", [6])
        writer.finish()
    store = CropStore(store_path)
    assert store.names == ("cup.jpg", "car")
    assert store.starts.tolist() == [0, 1, 4]
    assert store.frames.tolist() == [0, 0, 2, 4]
    assert [round(store.read(i).mean()) for i in range(4)] == [200, 50, 52, 54]
    expected = {("source", "car"): [6], ("source", "cup.jpg"): []}
    assert finished_contents(store_path, {}).left_out == expected
    with sqlite3.connect(store_path) as db:
        assert db.execute("SELECT count(*) FROM images").fetchone() == (4,)
    db.close()


def test_stores_of_early_versions_are_read_and_extended(store_path):
    with sqlite3.connect(store_path) as db:
        db.execute("DROP TABLE left_out")
    db.close()
    assert len(CropStore(store_path)) == 4
    assert finished_contents(store_path, {}) == Contents(
        CAR | CUP, 4, {("source", "car"): [], ("source", "cup.jpg"): []}
    )
    with CropWriter(store_path) as writer:
        writer.leave_out("source", "hat.jpg", [0])
        writer.finish()
    assert finished_contents(store_path, {}).left_out[("source", "hat.jpg")] == [0]


def test_contents_are_told_of_finished_stores_only(store_path, tmp_path):
    assert finished_contents(tmp_path / "none.db", {}) is None
    assert finished_contents(store_path, {"every": "5"}) is None
    text = tmp_path / "text.db"
    text.write_text("these are not crops\n" * 100)
    assert finished_contents(text, {}) is None
    begun = write_store(tmp_path / "begun.db", [], finish=False)
    assert finished_contents(begun, {}) is None


def test_a_missing_store_is_named(tmp_path):
    message = r"none\.db: no such crop store; make it with rbsf prepare-pairs --out .*none"
    with pytest.raises(FileNotFoundError, match=message):
        CropStore(tmp_path / "none.db")


@pytest.mark.parametrize("open_it", [CropStore, lambda path: CropWriter(path).__enter__()])
def test_foreign_files_are_refused(tmp_path, open_it):
    text = tmp_path / "text.db"
    text.write_text("these are not crops\n" * 100)
    with pytest.raises(ValueError, match=r"text\.db: not a crop store"):
        open_it(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    db.close()
    with pytest.raises(ValueError, match=r"other\.db: a database, but not a crop store"):
        open_it(other)
    assert text.read_text().startswith("these are not crops")
    assert sorted(os.listdir(tmp_path)) == ["other.db", "text.db"]


@pytest.mark.parametrize("open_it", [CropStore, lambda path: CropWriter(path).__enter__()])
def test_a_store_that_has_code_is_refused_before_it_runs(tmp_path, open_it):
    path = tmp_path / "pairs.db"
    shutil.copyfile(case("hostile") / "db_view_meta.db", path)
    with pytest.raises(
        ValueError, match=r"pairs\.db: a database, but not a crop store \(it has the view"
    ):
        open_it(path)


def test_a_store_of_another_version_is_refused(store_path):
    with sqlite3.connect(store_path) as db:
        db.execute("UPDATE meta SET value = '9' WHERE key = 'version'")
    db.close()
    with pytest.raises(ValueError, match="version '9', not '1'; prepare it again"):
        CropStore(store_path)


def test_a_damaged_image_is_named(store_path):
    with sqlite3.connect(store_path) as db:
        db.execute("UPDATE images SET jpeg = x'00' WHERE id = 2")
        db.execute("DELETE FROM images WHERE id = 3")
    db.close()
    store = CropStore(store_path)
    with pytest.raises(ValueError, match="crop 1 is damaged"):
        store.read(1)
    with pytest.raises(ValueError, match="crop 2 has no image"):
        store.read(2)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(finished, tmp_path):
    with CropWriter(tmp_path / "pairs.db", {"every": "1"}) as writer:
        if finished:
            writer.finish()
    advice = "name another file" if finished else "delete this file, to begin anew"
    with (
        pytest.raises(ValueError, match=f"made with every 1, not 5; keep to that or {advice}"),
        CropWriter(tmp_path / "pairs.db", {"every": "5"}),
    ):
        pass


def test_second_writer_is_refused(tmp_path):
    first, second = CropWriter(tmp_path / "pairs.db"), CropWriter(tmp_path / "pairs.db")
    who = rf"pairs\.db is in use by process {os.getpid()} on "
    with first, pytest.raises(ValueError, match=who), second:
        pass


def test_an_unknown_kind_is_refused(tmp_path):
    with (
        CropWriter(tmp_path / "pairs.db") as writer,
        pytest.raises(ValueError, match="'film' is not one of video, still"),
    ):
        writer.add_sequence("source", "car", "film")
