"""Attributes of sequences: published with the data sets, or computed from boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import bare_sequence

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.attributes import COMPUTED, GOT10K, SIZES, attributes_of


def without_sizes(
    found: tuple[dict[str, str], dict[str, set]],
) -> tuple[dict[str, str], dict[str, set]]:
    words, of_sequence = found
    hardships = {name: word for name, word in words.items() if name not in SIZES}
    return hardships, {name: attributes - SIZES.keys() for name, attributes in of_sequence.items()}


NAN = [float("nan")] * 4
BIKE, CAR = (bare_sequence(name, [[10, 10, 30, 30]] * 2) for name in ("bike1", "car1_s"))


def write_flags(root: Path, name: str, text: str, version: str = "UAV123") -> None:
    path = root / "anno" / version / "att" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ---- UAV123


@pytest.mark.parametrize("version", ["UAV123", "UAV20L"])
def test_uav123_publishes_12_flags(tmp_path: Path, version: str) -> None:
    write_flags(tmp_path, "bike1", "1,0,0,1,0,0,0,0,0,0,0,1\n", version)
    write_flags(tmp_path, "car1_s", "0 0 0 0 0 0 0 0 0 0 0 0", version)
    words, found = without_sizes(attributes_of(version, tmp_path, [BIKE, CAR]))
    expected = ["SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB"]
    assert list(words) == expected
    assert words["SOB"] == "similar object"
    assert found == {"bike1": {"SV", "FM", "SOB"}, "car1_s": set()}


@pytest.mark.parametrize("place", range(12))
def test_flags_of_uav123_have_their_order(tmp_path: Path, place: int) -> None:
    write_flags(tmp_path, "bike1", ",".join("1" if i == place else "0" for i in range(12)))
    name = ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB")[place]
    assert without_sizes(attributes_of("UAV123", tmp_path, [BIKE]))[1] == {"bike1": {name}}


@pytest.mark.parametrize(
    "text", ["1,0,1\n", "", "1,0,0,1,0,0,0,0,0,0,0,2\n", "1,0,0,1,0,0,0,0,0,0,0,1,0\n", "what"]
)
def test_damaged_flags_are_named(tmp_path: Path, text: str) -> None:
    write_flags(tmp_path, "bike1", text)
    message = r"bike1\.txt is damaged: expected 12 flags of 0 or 1, found"
    with pytest.warns(UserWarning, match=message):
        found = attributes_of("UAV123", tmp_path, [BIKE])
    assert found[1]["bike1"] <= {"small", "medium", "large"}


def test_uav123_without_all_its_flags_is_computed(tmp_path: Path) -> None:
    write_flags(tmp_path, "bike1", "1,1,1,1,1,1,1,1,1,1,1,1\n")
    found = without_sizes(attributes_of("UAV123", tmp_path, [BIKE, CAR]))
    assert found == (COMPUTED, {"bike1": set(), "car1_s": set()})
    assert without_sizes(attributes_of("UAV123", None, [BIKE])) == (COMPUTED, {"bike1": set()})


# ---- GOT-10k


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, set()),
        ({"absence": "0\n0\n", "cut_by_image": "0\n0\n"}, set()),
        ({"absence": "0\n1\n", "cut_by_image": "0\n0\n"}, {"absent"}),
        ({"cut_by_image": "1\n0\n"}, {"cut"}),
        ({"absence": "1\n1\n", "cut_by_image": "0\n1\n", "cover": "1\n1\n"}, {"absent", "cut"}),
    ],
)
def test_got10k_labels_two(tmp_path: Path, labels: dict[str, str], expected: set[str]) -> None:
    for name, text in labels.items():
        (tmp_path / f"{name}.label").write_text(text)
    sequence = Sequence("GOT-10k_Val_000001", (f"{tmp_path}/00000001.jpg",), BIKE.boxes)
    assert without_sizes(attributes_of("GOT-10k-val", None, [sequence])) == (
        GOT10K,
        {"GOT-10k_Val_000001": expected},
    )


def test_parts_have_their_own_labels_of_got10k(tmp_path: Path) -> None:
    (tmp_path / "absence.label").write_text("0\n0\n0\n1\n0\n0\n")
    (tmp_path / "cut_by_image.label").write_text("1\n0\n0\n0\n0\n0\n")
    frames = tuple(f"{tmp_path}/{i:08d}.jpg" for i in range(1, 7))
    whole = Sequence("GOT-10k_Val_000001", frames, np.ones((6, 4)))
    parts = [whole.part(first, first + 2) for first in (0, 2, 4)]
    _, found = without_sizes(attributes_of("GOT-10k-val", None, [whole, *parts]))
    assert list(found.values()) == [{"absent", "cut"}, {"cut"}, {"absent"}, set()]


def test_flags_of_uav123_are_said_to_be_of_the_whole_video(tmp_path: Path) -> None:
    write_flags(tmp_path, "bike1", "1,0,0,0,0,0,0,0,0,0,0,0\n")
    words, found = without_sizes(attributes_of("UAV123", tmp_path, [BIKE.part(0, 2)]))
    assert found == {"bike1@0+2": {"SV"}}
    assert words["SV"] == "scale variation (somewhere in the whole video)"


# ---- computed


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[10, 10, 20, 20], [10, 10, 20, 20]], set()),
        # The first box has 1600 pixels; exactly half or twice as many do not count.
        ([[10, 10, 40, 40], [10, 10, 40, 20], [10, 10, 40, 40], [10, 10, 50, 64]], set()),
        ([[10, 10, 40, 40], [10, 10, 40, 19.9]], {"SV"}),
        ([[10, 10, 40, 40], [10, 10, 50, 64.1]], {"SV"}),
        (
            [[10, 10, 40, 40], [10, 10, 40, 30], [10, 10, 40, 19]],
            {"SV"},
        ),  # compared with the first box
        # The centre moves by 20 pixels, and by more.
        ([[10, 10, 30, 30], [22, 26, 30, 30]], set()),
        ([[10, 10, 30, 30], [22, 26.1, 30, 30]], {"FM"}),
        ([[10, 10, 30, 30], [20, 20, 30, 30], [30, 30, 30, 30]], set()),
        ([[10, 10, 30, 30], [40, 40, 30, 30], [41, 40, 30, 30]], {"FM"}),
        ([[10, 10, 30, 30], [10, 10, 30, 71]], {"SV", "FM"}),  # a larger box has another centre
        # The box has 400 pixels, and fewer.
        ([[10, 10, 20, 20], [10, 10, 20, 19.9]], {"LR"}),
        ([[10, 10, 39, 10]], {"LR"}),
        # A target that moves while it is absent is not fast.
        ([[10, 10, 30, 30], NAN, [60, 60, 30, 30]], {"OV"}),
        ([NAN, [10, 10, 30, 30], [60, 60, 30, 30]], {"OV", "FM"}),
        ([NAN, [10, 10, 10, 10], [60, 60, 30, 30]], {"OV", "FM", "LR", "SV"}),
        ([NAN, NAN], {"OV"}),
    ],
)
def test_attributes_are_computed_at_their_thresholds(
    boxes: list[list[float]], expected: set[str]
) -> None:
    words, found = without_sizes(attributes_of("OTB100", None, [bare_sequence("Girl", boxes)]))
    assert words == COMPUTED
    assert found == {"Girl": expected}


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(31.9, 32)] * 2, {"small"}),
        ([(32, 32)] * 2, {"medium"}),
        ([(96, 96)] * 2, {"medium"}),
        ([(96, 96.1)] * 2, {"large"}),
        ([(200, 200), (30, 30), (30, 30)], {"small"}),  # the median counts, not the mean
    ],
)
def test_the_median_size_of_the_target_is_an_attribute(
    sides: list[tuple[float, float]], expected: set[str]
) -> None:
    sequence = bare_sequence("Girl", [[1, 1, *side] for side in sides])
    for dataset in ("OTB100", "UAV123", "GOT-10k-val"):
        words, found = attributes_of(dataset, None, [sequence])
        assert words.items() >= SIZES.items()
        assert found["Girl"] & SIZES.keys() == expected


def test_a_target_that_is_never_seen_has_no_size() -> None:
    assert attributes_of("OTB100", None, [bare_sequence("Girl", [NAN, NAN])])[1] == {"Girl": {"OV"}}
    assert attributes_of("GOT-10k-test", None, [bare_sequence("Girl", [NAN, NAN])]) == ({}, {})
