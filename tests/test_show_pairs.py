"""The picture of pairs shows what a training would see, with labels and negatives."""

import cv2
import numpy as np
import pytest
import torch
from test_pairs import dot, flat, store_of

from rbsf.datasets.pairs.mixing import MixConfig
from rbsf.datasets.pairs.pair_dataset import PairDataset
from rbsf.tools.show_pairs import COLUMNS, draw_pair, main, sheet


@pytest.fixture
def store(tmp_path):
    return store_of(
        tmp_path / "pairs.db", ("still", [dot()]), ("video", [flat(0, 60), flat(1, 61)])
    )


def item(negative, shift=(0.0, 0.0)):
    exemplar, search = (
        torch.full((3, side, side), value, dtype=torch.uint8)
        for side, value in ((127, 50), (255, 80))
    )
    return {
        "exemplar": exemplar,
        "search": search,
        "shift": torch.tensor(shift),
        "negative": torch.tensor(negative),
    }


def test_circle_is_where_the_response_should_peak():
    positive = item(False, (20.0, -11.0))
    picture = draw_pair(positive)
    assert picture.shape == (255, 384, 3)
    assert (picture[:127, :127] == 50).all()
    ys, xs = np.nonzero((picture == (0, 255, 0)).all(-1))
    assert (xs.mean(), ys.mean()) == pytest.approx((129 + 127 + 20, 127 - 11))
    assert (positive["search"] == 80).all()  # boxes are drawn on a copy


def test_negatives_have_a_red_frame_and_no_circle():
    picture = draw_pair(item(True))
    assert picture[0, 129].tolist() == picture[254, 383].tolist() == [255, 0, 0]
    assert not (picture == (0, 255, 0)).all(-1).any()


def test_sheet_fills_its_last_row_with_black():
    picture = sheet([item(False)] * (COLUMNS + 1))
    assert picture.shape == (2 * 259, COLUMNS * 388, 3)
    assert picture[259:, :388].any()
    assert not picture[259:, 388:].any()


def test_program_shows_the_pairs_that_flags_ask_for(store, tmp_path, capsys):
    flags = ["--data", str(store.path), "--out", str(tmp_path / "look")]
    flags += ["--val-sequences", "0", "--seed", "3"]
    assert main([*flags, "--negative-share", "0.5"]) == 0
    assert capsys.readouterr().out.endswith("pairs.png: 32 pairs\n")
    picture = cv2.imread(str(tmp_path / "look" / "pairs.png"))[:, :, ::-1]
    expected = PairDataset([store], 32, seed=3, mix=MixConfig(negative_share=0.5))
    # The sixth pair is in the second row and column.
    assert np.array_equal(picture[259:514, 388 : 388 + 384], draw_pair(expected[5]))


def test_program_shows_the_pairs_of_rbsf2(store, tmp_path, capsys):
    flags = ["--model", "rbsf2", "--data", str(store.path), "--out", str(tmp_path / "look")]
    assert main([*flags, "--teacher", "backbone.onnx,head.onnx"]) == 0
    assert capsys.readouterr().out.endswith("pairs.png: 32 pairs\n")
