"""An installed copy is complete and destroys nothing, and no module has two names."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import ROOT
from requirements import needs

PROGRAMS = sorted([*(ROOT / "tools").glob("*.py"), ROOT / "eval" / "run_benchmarks.py"])
PROGRAMS = [path for path in PROGRAMS if "def parse_args" in path.read_text()]

# A file, links followed, must not have two names; the program's own name, __main__, is left out.
ONE_NAME = """
import sys
from pathlib import Path

ROOT = ROOT_FOLDER

def check_names():
    names = {}
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "none")
        if name != "__main__" and file.is_absolute() and file.resolve().is_relative_to(ROOT):
            names.setdefault(file.resolve(), []).append(name)
    names = {file: found for file, found in names.items() if ".venv" not in file.parts}
    wrong = [found for found in names.values() if len(found) > 1 or not found[0].startswith("rbsf")]
    assert not wrong, wrong
    assert len(names) > COUNT, len(names)
"""
EVERY_MODULE = """
import importlib, pkgutil
import rbsf
for found in pkgutil.walk_packages(rbsf.__path__, "rbsf."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
check_names()
"""
A_PROGRAM = """
import runpy
sys.argv = [PROGRAM, "--help"]
try:
    runpy.run_path(PROGRAM, run_name="__main__")
except SystemExit:
    check_names()
"""
PIP = [sys.executable, "-m", "pip", "--quiet"]
CHECK = ROOT / "tests" / "check_installed.py"
FOREIGN = "KIND = 'other people'\n"
TRACK = """
import sys
sys.modules["torch"] = None  # cannot be imported
import datasets
assert datasets.KIND == "other people"
import numpy as np
import rbsf
from rbsf.engine.cpu import native
assert native, "no kernels"
assert str(TARGET) in rbsf.__file__, rbsf.__file__
image = np.full((120, 160, 3), 90, np.uint8)
checks = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
image[40:64, 60:90] = checks.repeat(6, 0).repeat(6, 1)
tracker = rbsf.Tracker(threads=1)
tracker.init(image, (60, 40, 30, 24))
found, box = tracker.update(image)
assert found and abs(box[0] - 60) < 3 and abs(box[1] - 40) < 3, box
"""


def run(code: str, folder: Path, **variables: str) -> str:
    """What a fresh Python prints, which finds this project only by what `variables` say."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_checked(more_than: int) -> str:
    """Code that defines `check_names`, which expects over `more_than` modules of this project."""
    return ONE_NAME.replace("ROOT_FOLDER", f"Path({str(ROOT)!r})").replace("COUNT", str(more_than))


def test_no_module_is_loaded_under_two_names() -> None:
    run(names_checked(150) + EVERY_MODULE, ROOT)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_no_program_loads_one_under_two_names(program: Path) -> None:
    code = names_checked(1) + A_PROGRAM.replace("PROGRAM", repr(str(program)))
    assert "usage" in run(code, ROOT)


def test_an_installed_copy_wins_over_the_clone(tmp_path: Path) -> None:
    """Programs of the clone append it to the path, behind an installed copy."""
    for folder in ("rbsf", "rbsf/methods", "rbsf/system"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "rbsf" / "system" / "flags.py").write_text(
        "print('the installed one')\nraise SystemExit(0)\n"
    )
    path = str(ROOT / "tools" / "cost.py")
    code = (
        f"import runpy, sys; sys.argv = [{path!r}]; runpy.run_path({path!r}, run_name='__main__')"
    )
    (tmp_path / "rbsf" / "methods" / "__init__.py").write_text("METHODS = {}\n")
    assert "the installed one" in run(code, tmp_path, PYTHONPATH=str(tmp_path))


def test_links_give_the_folders_their_names() -> None:
    for name in ("tracker", "datasets", "eval", "tools"):
        assert os.readlink(ROOT / "rbsf" / name) == f"../{name}"
    for name in ("configs", "weights"):
        assert os.readlink(ROOT / "rbsf" / "shipped" / name) == f"../../{name}"


def test_every_folder_with_code_is_a_package() -> None:
    """Other folders would be left out of a wheel."""
    folders = {
        path.parent
        for top in ("rbsf", "tracker", "datasets", "eval", "tools")
        for path in (ROOT / top).rglob("*.py")
    }
    assert all(
        (folder / "__init__.py").is_file()
        for folder in folders
        if "__pycache__" not in folder.parts
    )


def test_a_missing_extension_is_named() -> None:
    code = """
import sys
sys.modules["got10k"] = None
sys.argv = ["rbsf benchmark", "--dataset", "synthetic"]
from rbsf.eval.run_benchmarks import main
from rbsf.system.program import run
run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        'error: got10k is not installed; install this project with its extra "eval"'
    )
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this clone, with kernels."""
    pytest.importorskip("pybind11", reason=needs("compiler", "there is no pybind11 to build with"))
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(ROOT, folder)


def build_wheel(source: Path, folder: Path) -> Path:
    """Build a wheel of a clone or of a source package into a folder."""
    flags = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *flags, str(source)], check=True)
    (file,) = folder.glob("*.whl")
    return file


def install(wheel: Path, folder: Path) -> Path:
    """The folder with the packages of a wheel."""
    target = folder / "site"
    flags = ["--no-deps", "--target", str(target)]
    subprocess.run([*PIP, "install", *flags, str(wheel)], check=True)
    return target


@pytest.mark.slow
def test_a_wheel_tracks_beside_other_peoples_packages(wheel: Path, tmp_path: Path) -> None:
    """A wheel is installed outside of the clone, without torch, beside another `datasets`.

    It has kernels and overwrites nothing.
    """
    datasets = tmp_path / "site" / "datasets"
    datasets.mkdir(parents=True)
    (datasets / "__init__.py").write_text(FOREIGN)
    target = install(wheel, tmp_path)
    assert {path.name for path in target.iterdir() if path.is_dir()} >= {"rbsf", "datasets"}
    assert not {"tracker", "eval", "tools", "configs", "weights"} & {
        path.name for path in target.iterdir()
    }
    assert (datasets / "__init__.py").read_text() == FOREIGN
    assert (target / "rbsf" / "tools" / "page" / "static" / "index.html").is_file()
    run(TRACK.replace("TARGET", repr(str(target))), tmp_path, PYTHONPATH=str(target))
    program = run("from rbsf.tools.command import main; main()", tmp_path, PYTHONPATH=str(target))
    assert "rbsf COMMAND" in program


@pytest.mark.slow
def test_a_wheel_has_the_licence_and_the_notice(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        licences = {
            name.rpartition("/")[2]: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/licenses/" in name
        }
    assert licences == {name: (ROOT / name).read_text() for name in ("LICENSE", "NOTICE")}


@pytest.mark.slow
def test_a_wheel_of_the_source_package_tracks(tmp_path: Path) -> None:
    """The source package has all that is needed, with files in place of links."""
    pytest.importorskip("pybind11", reason=needs("compiler", "there is no pybind11 to build with"))
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert names >= {"LICENSE", "NOTICE", "CHANGELOG.md", "rbsf/tracker/siamfc.py"}
    assert not any(member.issym() for member in members)
    target = install(build_wheel(file, tmp_path), tmp_path)
    code = f"import runpy; runpy.run_path({str(CHECK)!r}, run_name='__main__')"
    said = run(code, tmp_path, PYTHONPATH=str(target))
    assert f"{target / 'rbsf'} tracks" in said


def test_an_installed_copy_that_lacks_its_kernels_is_named() -> None:
    code = f"""
import runpy, sys
sys.modules["rbsf.engine._native"] = None
runpy.run_path({str(CHECK)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "has no kernels" in done.stderr
    assert done.stderr.count("\n") == 1
