"""The benchmark report: numbers, escaping, self-contained pages, curves, strips, reading back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from reports import make_report, make_tracker

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.plots import COLORS, plot_curves, tracker_color, tracker_style
from rbsf.eval.report import load_report, to_html, to_markdown, write_report
from rbsf.eval.report_tables import attribute_table, main_table, paper_table, sequence_table
from rbsf.eval.strips import Strip, make_strips
from rbsf.eval.tables import Cell, Table

PAPER = {
    "source": "RBCN, IJCAI 2019, Table 5",
    "dataset": "OTB100",
    "scores": {
        "SiamFC": {"precision": 0.808, "success": 0.602},
        "XNOR": {"precision": 0.541, "success": 0.394},
        "RB-SF": {"precision": 0.786, "success": 0.572},
    },
}


def rows(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[cell.text for cell in row] for row in table.rows]


def test_the_main_table_has_scores_and_marks() -> None:
    report = make_report()
    spread = dict.fromkeys(report["trackers"][0]["mean"], 0.0126)
    report["trackers"][0] |= {
        "runs": 3,
        "spread": spread,
        "fps": 107753.9,
        "sequences": {"Dog": {"auc": 0.6, "frames": 10}},
    }
    lines = str(main_table(report)).splitlines()
    expected = "| tracker | AUC | precision | norm. precision | AO | SR0.5 | SR0.75 | fps | file |"
    assert lines[0] == expected
    assert lines[2] == (
        "| rbsf (subject, float32, 3 runs, 1 of 2 sequences)"
        + " | 0.550 ± 0.013" * 6
        + " | 107,754 | 0.48 MB |"
    )
    assert lines[3] == "| teacher (reference, float32)" + " | 0.625" * 6 + " | 12.3 | 9.35 MB |"


def test_mean_over_fewer_sequences_is_not_the_best() -> None:
    few, more, most = (
        make_tracker("a", {"Dog": 0.9}),
        *(make_tracker(c, {"Dog": 0.6, "Girl": 0.2}) for c in "bc"),
    )
    table = main_table(make_report(few, more, most))
    assert [row[1].best for row in table.rows] == [False, True, True]
    assert table.rows[0][0].tags[-1] == "1 of 2 sequences"
    line = "the best of each score in bold, but for means over fewer sequences than others."
    assert line in table.caption
    for tracker, auc, count in ((few, 0.9, 1), (more, 0.2, 2), (most, 0.4, 2)):
        tracker["attributes"] = {"SV": {"auc": auc, "sequences": count}}
    found = attribute_table(make_report(few, more, most))
    assert found is not None
    assert [cell.best for cell in found.rows[0]] == [False, False, False, False, True]


def test_scores_that_show_alike_are_both_best() -> None:
    table = main_table(
        make_report(make_tracker("a", {"Dog": 0.50001}), make_tracker("b", {"Dog": 0.49999}))
    )
    assert [row[1].best for row in table.rows] == [True, True]


def test_sequences_stand_by_gap() -> None:
    table = sequence_table(make_report())
    assert table.columns == ["sequence", "frames", "rbsf", "teacher", "gap"]
    assert rows(table) == [
        ["Girl", "10", "0.500", "0.700", "-0.200"],
        ["Dog", "10", "0.600", "0.550", "+0.050"],
    ]
    assert table.sort == 4


def test_sequences_without_a_score_come_last_and_failures_are_named() -> None:
    report = make_report(
        make_tracker("rbsf", {"Dog": 0.6, "Girl": 0.5}, failed={"Car": "no frame"}),
        make_tracker("teacher", {"Car": 0.4, "Girl": 0.5}),
    )
    assert rows(sequence_table(report)) == [
        ["Girl", "10", "0.500", "0.500", "+0.000"],
        ["Car", "10", "failed", "0.400", "–"],
        ["Dog", "10", "0.600", "–", "–"],
    ]
    assert "- rbsf: Car: no frame" in to_markdown(report)


def test_without_reference_the_worst_comes_first_and_there_is_no_gap() -> None:
    table = sequence_table(make_report(reference=None))
    assert table.columns[-1] == "teacher"
    assert [row[0] for row in rows(table)] == ["Girl", "Dog"]
    assert "of its reference" not in to_markdown(make_report(reference=None))


def test_paper_stands_in_columns_of_its_own() -> None:
    table = paper_table(make_report(paper=PAPER))
    assert table is not None
    expected = (("", 1), ("paper: all of OTB100", 2), ("here: OTB100 (2 of 100 sequences)", 3))
    assert table.groups == expected
    # The first row is the reference, whatever its label.
    assert rows(table) == [
        ["SiamFC", "0.808", "0.602", "teacher", "0.625", "0.625"],
        ["XNOR", "0.541", "0.394", "–", "–", "–"],
        ["RB-SF", "0.786", "0.572", "rbsf", "0.550", "0.550"],
    ]
    assert "other training data and of the whole of OTB100" in table.caption
    paper = "paper: all of OTB100: precision | paper: all of OTB100: AUC"
    assert f"| network | {paper} | here: OTB100 (2 of" in str(table)


def test_attributes_have_a_table() -> None:
    report = make_report(attributes={"SV": "scale variation", "OCC": "occlusion"})
    report["trackers"][0]["attributes"] = {
        "OCC": {"auc": 0.4, "sequences": 2},
        "SV": {"auc": 0.3, "sequences": 1},
    }
    report["trackers"][1]["attributes"] = {"OCC": {"auc": 0.5, "sequences": 2}}
    table = attribute_table(report)
    assert rows(table) == [["SV", "1", "0.300", "–"], ["OCC", "2", "0.400", "0.500"]]
    assert "| OCC: occlusion | 2 | 0.400 | **0.500** |" in str(table)


def test_texts_cannot_break_a_markdown_table() -> None:
    cell = Table("", ["a"], [[Cell("x|y <b>\n`z` *w* snake_case _v_")]])
    assert str(cell).splitlines()[2] == r"| x\|y &lt;b&gt; \`z\` \*w\* snake_case \_v\_ |"


def test_page_escapes_and_needs_nothing_else() -> None:
    evil = "<script>alert(1)</script>"
    report = make_report(
        make_tracker(evil, {evil: 0.5}, failed={"Car": evil}),
        title=evil,
        protocol=evil,
        paper=PAPER,
    )
    report |= {
        "missing": [evil],
        "unreadable": {evil: evil},
        "environment": {"command": evil, evil: evil},
    }
    page = to_html(report, [Strip(evil, evil, [b"\xff\xd8"], [0])])
    assert evil not in page
    # Only a code block shows the text unescaped.
    assert evil not in to_markdown(report).replace(f"    {evil}", "")
    assert page.count("<script>") == page.count("</script>") == 1
    assert not re.search(r"""(src|href)\s*=\s*(?!["']?(data:|#))|@import|url\((?!#)""", page)
    assert 'src="data:image/jpeg;base64,/9g="' in page


def test_page_has_the_scores_marks_and_notes() -> None:
    report = make_report(paper=PAPER)
    page = to_html(report, [])
    assert "<h1>OTB100 (2 of 100 sequences)</h1>" in page
    share = "88.0% of the 0.625 of its reference, teacher."
    assert f"rbsf: AUC 0.550 over 2 sequences, 1,020 frames; {share}" in page
    assert '<tr class="subject">' in page
    assert "<strong>0.625</strong>" in page
    assert "One pass, first frame not counted." in page
    assert "<li>Basketball, Biker</li>" in page
    assert "<li>Man: frame 3 is cut short</li>" in page
    assert "python eval/run_benchmarks.py --tracker &#39;a b&#39;" in page
    assert page.count('<th scope="row"') == 2 + 3 + 2 + 2  # scores, paper, sequences, environment
    assert page.count("<svg ") == 3


def test_sequences_of_a_tracker_with_named_constants_are_sorted_by_its_scores() -> None:
    tracker = make_tracker("rbsf", {"Dog": 0.9, "Girl": 0.2}) | {"constants": "fast.yaml"}
    table = sequence_table(make_report(tracker, reference=None))
    assert table.columns[-1] == "rbsf (fast.yaml)"
    assert [row[0].text for row in table.rows] == ["Girl", "Dog"]


def test_sequence_table_can_be_sorted() -> None:
    page = to_html(make_report(), [])
    assert page.count("<button") == 5
    assert page.count('aria-sort="ascending"><button type="button">gap') == 1
    assert page.count('aria-sort="none"') == 4
    assert 'data-value="-0.2">-0.200' in page
    assert 'addEventListener("click"' in page


def test_a_report_with_nothing_scored_is_written() -> None:
    nothing = make_tracker(
        "static", {}, curves=None, fps=None, bytes=None, precision=None, failed={"Dog": "broken"}
    )
    report = make_report(nothing, missing=[], unreadable={}, environment={})
    assert rows(main_table(report)) == [["static", *["–"] * 8]]
    page = to_html(report, [])
    assert "static: nothing could be scored; 1,020 frames." in page
    for absent in ("<svg", "By attribute", "Beside the paper", "Missing (", "Best and worst"):
        assert absent not in page
    assert "Dog: broken" in page


def test_written_report_is_read_back(tmp_path: Path) -> None:
    report = make_report()
    write_report(report, tmp_path / "new", [])
    expected = ["report.html", "report.json", "report.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == expected
    assert load_report(tmp_path / "new") == load_report(str(tmp_path / "new/report.json")) == report


def test_a_score_that_is_no_number_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_report(make_report(frames=float("nan")), tmp_path, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "is not a benchmark report: its format is None"),
        ('{"format": "other-1"}', "is not a benchmark report: its format is 'other-1'"),
        ('{"format": "rbsf-benchmark-2"}', "newer format rbsf-benchmark-2.*update"),
        ('{"format": "rbsf-benchmark-1", "title": "x"}', "is damaged: it has no dataset, protocol"),
        (
            json.dumps(make_report({"label": "a"})),
            "is damaged: it has no tracker's key, tracker's mean",
        ),
    ],
)
def test_what_is_no_report_is_named_in_one_line(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "report.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"report.json.*{fault}") as caught:
        load_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_report_is_named(tmp_path: Path) -> None:
    message = r"report.json does not exist; rbsf benchmark"
    with pytest.raises(FileNotFoundError, match=message):
        load_report(tmp_path)


def test_curves_are_deterministic_and_leave_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    assert plot_curves(make_report(), "success") == plot_curves(make_report(), "success")
    assert dict(matplotlib.rcParams) == before


def test_curves_take_the_colour_of_the_page_and_sort_the_legend() -> None:
    svg = plot_curves(make_report(), "success")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "#000000" not in svg
    assert svg.index("0.625  teacher") < svg.index("0.550  rbsf")
    assert f"stroke: {COLORS[0]}; stroke-width: 2.4" in svg
    assert 'role="img" aria-label="Success plot. 0.625 teacher; 0.550 rbsf"' in svg
    assert not re.search(r"<metadata|<\?xml|<!DOCTYPE|\d{4}-\d\d-\d\d", svg)


def test_labels_are_no_formulas() -> None:
    report = make_report(make_tracker("_a$x^2$<b>", {"Dog": 0.5}))
    assert "0.500  _a$x^2$&lt;b&gt;</text>" in plot_curves(report, "precision")


def test_ids_of_plots_do_not_clash() -> None:
    page = to_html(make_report(), [])
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 30
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page))
    assert {a or b for a, b in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page)} <= set(ids)


def luminance(color: str) -> float:
    shares = np.array(list(bytes.fromhex(color[1:]))) / 255
    return float(
        np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        @ [0.2126, 0.7152, 0.0722]
    )


def test_colours_are_seen_on_light_and_dark() -> None:
    dark = luminance("#15181c")
    for color in COLORS:
        assert 1.05 / (luminance(color) + 0.05) > 3
        assert (luminance(color) + 0.05) / (dark + 0.05) > 3
    assert len({(tracker_color(i), tracker_style(i)) for i in range(20)}) == 20


def gray_sequence(folder: Path, name: str, frames: int = 9, width: int = 640) -> Sequence:
    """Gray JPEG frames of `width` x `width / 2` pixels.

    The target is the middle half of the picture.
    """
    paths = [str(folder / f"{name}{i}.jpg") for i in range(frames)]
    for path in paths:
        cv2.imwrite(path, np.full((width // 2, width, 3), 128, np.uint8))
    return Sequence(
        name, tuple(paths), np.tile([width / 4, width / 8, width / 2, width / 4], (frames, 1))
    )


def decode(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_strips_show_the_best_and_the_worst_once_each(tmp_path: Path) -> None:
    sequences = [gray_sequence(tmp_path, name, frames=3) for name in "ABCDEF"]
    scores = dict(zip("ABCDEF", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True))
    report = make_report(make_tracker("rbsf", scores), make_tracker("teacher", {"F": 0.7}))
    strips = make_strips(sequences, report, {})
    assert [strip.sequence for strip in strips] == ["F", "E", "A", "B"]
    assert strips[0].caption == "F, among the best of rbsf: AUC 0.600, teacher 0.700"
    assert strips[2].caption == "A, among the worst of rbsf: AUC 0.100"
    assert strips[0].frame_numbers == [0, 1, 2]
    assert [strip.sequence for strip in make_strips(sequences[:3], report, {})] == ["C", "B", "A"]


def test_strip_draws_boxes_in_the_trackers_colours(tmp_path: Path) -> None:
    sequence = gray_sequence(tmp_path, "Dog")
    boxes = {
        "rbsf": {"Dog": sequence.boxes + np.array([20, 0, 0, 0])},
        "teacher": {"Dog": np.full((9, 4), np.nan)},
    }
    report = make_report(make_tracker("rbsf", {"Dog": 0.5}), make_tracker("teacher", {"Dog": 0.5}))
    strip = make_strips([sequence], report, boxes)[0]
    assert strip.frame_numbers == [0, 2, 4, 6, 8]
    image = decode(strip.frames[0]).astype(int)
    assert image.shape == (160, 320, 3)
    # The true box's left side is white, with a dark line outside it.
    assert image[80, 80].min() > 220
    assert image[80, 79].max() < 70
    # The box of rbsf is 20 pixels to the right, at twice the size.
    assert np.abs(image[80, 90] - [0x2F, 0x7F, 0xD6]).max() < 40
    assert np.abs(image[80, 160] - 128).max() < 5


def test_small_frames_are_not_enlarged_and_wild_boxes_do_no_harm(tmp_path: Path) -> None:
    sequence = gray_sequence(tmp_path, "Dog", frames=1, width=64)
    boxes = {"rbsf": {"Dog": np.array([[-1e12, 1e12, 1e13, 1.0]])}}
    strip = make_strips([sequence], make_report(make_tracker("rbsf", {"Dog": 0.5})), boxes)[0]
    assert [decode(frame).shape for frame in strip.frames] == [(32, 64, 3)]


def test_frames_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    dog, girl = gray_sequence(tmp_path, "Dog"), gray_sequence(tmp_path, "Girl", frames=2)
    Path(dog.frames[4]).write_bytes(b"")
    Path(dog.frames[6]).unlink()
    for path in girl.frames:
        Path(path).unlink()
    strips = make_strips(
        [dog, girl], make_report(make_tracker("rbsf", {"Dog": 0.5, "Girl": 0.4})), {}
    )
    assert [(strip.sequence, strip.frame_numbers) for strip in strips] == [("Dog", [0, 2, 8])]


def test_json_is_the_report_as_it_stands(tmp_path: Path) -> None:
    report = make_report()
    write_report(report, tmp_path, [])
    assert json.loads((tmp_path / "report.json").read_text()) == report
