"""Licence, citation, changelog and model cards are complete, and agree with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from requirements import needs

WEIGHTS = sorted((ROOT / "weights").glob("*.safetensors"))
CARDS = ROOT / "docs" / "cards"
MAX_WORDS = 500  # of the guide to the installation
KEYS = {"license", "library_name", "pipeline_tag", "tags", "metrics"}  # that model hubs read


def name_of(path: Path) -> str:
    return path.name


def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason=needs("tomllib", "Python 3.10 has none"))
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    return pyproject()["project"]


def front_matter(card: Path) -> dict[str, Any]:
    start, header, text = card.read_text().split("---\n", 2)
    assert start == ""
    assert text.strip().startswith("# ")
    return yaml.safe_load(header)


def python_versions() -> list[str]:
    """The versions that requires-python allows, such as 3.10."""
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project()["requires-python"]).groups()
    return [f"3.{minor}" for minor in range(int(low), int(high))]


def test_the_cards_are_those_of_the_weights() -> None:
    assert {path.stem for path in WEIGHTS} == {path.stem for path in CARDS.glob("*.md")}


@pytest.mark.parametrize("weights", WEIGHTS, ids=name_of)
def test_a_card_has_what_model_hubs_read(weights: Path) -> None:
    card = CARDS / f"{weights.stem}.md"
    fields = front_matter(card)
    assert fields.keys() >= KEYS
    assert (fields["license"], fields["library_name"]) == ("apache-2.0", "rbsf")
    text = card.read_text()
    assert f"{weights.stat().st_size:,} bytes" in text
    for section in ("Intended use", "How to use", "Figures", "Limits", "Training", "Licence"):
        assert f"\n## {section}" in text, section


@pytest.mark.parametrize("weights", WEIGHTS, ids=name_of)
def test_figures_of_a_card_are_those_of_the_results(weights: Path) -> None:
    """A row of RESULTS.md has AUC and precision of OTB, then of UAV123."""
    fields = front_matter(CARDS / f"{weights.stem}.md")
    for model in fields.get("model-index", []):
        cells = []
        for result in model["results"]:
            auc, precision = (metric["value"] for metric in result["metrics"])
            cells.append(f"{auc:.3f} / {precision:.3f}")
        assert f"| {' | '.join(cells)} |" in (ROOT / "docs" / "RESULTS.md").read_text()


def test_the_table_of_cards_has_the_sizes_of_the_files() -> None:
    text = (ROOT / "docs" / "MODEL_CARD.md").read_text()
    for path in WEIGHTS:
        assert f"| `{path.name}` | {path.stat().st_size:,} |" in text


def test_the_licence_is_the_same_everywhere() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert (project()["license"], project()["license-files"]) == (
        "Apache-2.0",
        ["LICENSE", "NOTICE"],
    )
    notice = (ROOT / "NOTICE").read_text()
    for source in ("SiamFC-3s", "DAVIS", "VOT", "UAVDT", "COCO", "Caltech-101", "CIFAR-100"):
        assert source in notice


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project()["version"]
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["title"].startswith("RBCN: Rectified Binary Convolutional Networks")
    assert len(paper["authors"]) == 8


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[([\d.]+)\]", text, re.MULTILINE)[0] == project()["version"]


def test_classifiers_name_the_versions_of_python_that_are_allowed() -> None:
    prefix = "Programming Language :: Python :: "
    named = [
        line.removeprefix(prefix) for line in project()["classifiers"] if line.startswith(prefix)
    ]
    assert named == python_versions()


def test_wheels_are_built_for_every_version_of_python_that_is_allowed() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text())["jobs"]
    matrix = jobs["wheels"]["strategy"]["matrix"]
    assert matrix["python"] == python_versions()
    machines = " ".join(matrix["machine"])
    for name in ("ubuntu-24.04 ", "ubuntu-24.04-arm", "macos-15-intel", "macos-15 ", "windows"):
        assert name in f"{machines} "


def test_each_wheel_has_to_track() -> None:
    command = pyproject()["tool"]["cibuildwheel"]["test-command"]
    assert command == "python {project}/tests/check_installed.py"
    assert "tests/check_installed.py" in (ROOT / ".github/workflows/wheels.yml").read_text()


def test_the_guide_names_every_extra_and_version() -> None:
    text = (ROOT / "docs" / "guide" / "install.md").read_text()
    for extra in project()["optional-dependencies"]:
        assert f"`{extra}`" in text
    low, *_, high = python_versions()
    assert f"Python {low} to {high}" in text
    assert len(text.split()) <= MAX_WORDS
