"""tools/gpu_run.py: its list, a rehearsal of it on the CPU, slices of time, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import ROOT
from test_cifar_parts import parts, small  # noqa: F401

from rbsf.system.lock import locked
from rbsf.tools import gpu_run
from rbsf.tools.gpu.home import pack_home
from rbsf.tools.gpu.items import make_items
from rbsf.tools.gpu.sharing import Mps
from rbsf.tools.gpu.summary import LIST, _read_log, summarise, write_list
from rbsf.tools.gpu_run import main
from rbsf.tools.tables.studies import read_study
from rbsf.train.worklist import DONE, FAILED, State, state_of, write_state

PROGRAM = [sys.executable, str(ROOT / "tools" / "gpu_run.py")]
FIRST = "table2-32-32-64-128-r+g+b"


def test_the_list_is_in_order_and_each_item_has_a_place_of_its_own() -> None:
    items = make_items(Path("data"))
    names = [item.name for item in items]
    table = [f"table2-32-32-64-128-{column}" for column in ("bi", "r", "r+g")]
    float_network = "teachers-resnet18-32-32-64-128"
    assert names[:5] == ["rbsf2", "agreement", "speed", "readings-float", "readings-float-by-sgd"]
    first = names.index(float_network)
    assert all(name.startswith("readings-") for name in names[3:first])
    assert names[first + 1 : first + 5] == [*table, FIRST]
    assert len(set(names)) == len(names)
    assert len({item.results for item in items}) == len(items)
    for number, item in enumerate(items):
        assert set(item.needs) <= set(names[:number]), "what is needed comes before"
    assert all(item.needs for item in items if item.name.startswith("table2"))
    assert [item.name for item in items if item.alone] == [*names[:3], float_network]


def test_every_reading_of_the_table_is_in_the_list_and_starts_from_its_float_network() -> None:
    items = {item.name: item for item in make_items(Path("data"), rehearse=True)}
    rows = [cell.row for cell in read_study("readings", {}).cells]
    listed = [items["-".join(f"readings {row}".lower().replace("'", "").split())] for row in rows]
    assert len(listed) == sum(name.startswith("readings-") for name in items)
    for row, item in zip(rows, listed, strict=True):
        by_sgd = row == "SGD" or "by SGD" in row or row == "paper's settings"
        teacher = "readings-float-by-sgd" if by_sgd else "readings-float"
        alone = row.startswith("float") or row == "Bi from scratch"
        assert item.needs == (() if alone else (teacher,))


def test_seeds_start_from_the_float_network_of_the_first() -> None:
    by_name = {item.name: item for item in make_items(Path("data"))}
    for name in (FIRST, f"{FIRST}-seed-1"):
        assert by_name[name].needs == ("teachers-resnet18-32-32-64-128",)
    command = by_name[f"{FIRST}-seed-1"].command
    (teacher,) = [word for word in command if word.startswith("teacher=")]
    expected = f"teacher={by_name['teachers-resnet18-32-32-64-128'].results}/resnet18.safetensors"
    assert teacher == expected


def test_only_takes_along_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", f"{FIRST}-seed-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = ["teachers-resnet18-32-32-64-128", f"{FIRST}-seed-2"]
    assert [line.split(":")[0] for line in lines] == expected
    message = "--only 'table9': no such item; there are rbsf2, agreement, speed, "
    with pytest.raises(ValueError, match=message):
        main(["--list", "--only", "table9"])


def test_without_its_parts_rbsf2_is_left_out() -> None:
    with_it, without = (make_items(Path("data"), rbsf2=there) for there in (True, False))
    assert [item.name for item in with_it] == ["rbsf2", *(item.name for item in without)]


def rehearse(folder: Path, *flags: str) -> subprocess.Popen:
    command = [*PROGRAM, "--rehearse", "--out", str(folder), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_rehearsal_comes_home(tmp_path: Path) -> None:
    process = rehearse(tmp_path / "run", "--only", "speed")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "done: speed after" in said
    assert "1 of 1 done, 0 failed" in said
    assert "| speed | done | " in said
    assert "## A training step, R+G+B, ResNet-18 4-4-8-16" in said
    home = tmp_path / "run" / "home"
    summary = subprocess.run(
        [*PROGRAM, "--summary", str(home)], capture_output=True, text=True, check=True
    )
    assert summary.stdout.strip() in said


@pytest.mark.slow
def test_a_whole_rehearsal_does_all_items(tmp_path: Path) -> None:
    process = rehearse(tmp_path / "run")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    count = len(make_items(Path("data")))
    assert f"{count} of {count} done, 0 failed" in said


@pytest.mark.slow
def test_a_run_cut_into_three_slices_gives_what_an_uncut_one_gives(
    tmp_path: Path, monkeypatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert rehearse(whole, "--only", FIRST + "-seed-1").wait() == 0
    items = make_items(whole / "data", rehearse=True, only=[f"{FIRST}-seed-1"])
    (item,) = [item for item in items if item.needs]
    for _ in range(2):
        process = rehearse(cut, "--only", f"{FIRST}-seed-1")
        stop_in_training(process, cut / "items")
        assert process.wait() == 128 + signal.SIGTERM
    assert rehearse(cut, "--only", f"{FIRST}-seed-1").wait() == 0
    assert state_of(cut, item).state == DONE
    for name in ("resnet18.safetensors", "resnet18-packed.safetensors"):
        first, second = ((folder / item.results / name).read_bytes() for folder in (whole, cut))
        assert weights_of(first) == weights_of(second)


def stop_in_training(process: subprocess.Popen, items: Path) -> None:
    """Send SIGTERM while the bar of a new training moves."""
    logs = {path: path.stat().st_size for path in items.glob("*/log.txt")}
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for path in items.glob("*/log.txt"):
            new = path.read_bytes()[logs.get(path, 0) :]
            if b"image/s" in new:
                process.send_signal(signal.SIGTERM)
                return
        time.sleep(0.02)
    pytest.fail("no training began")


def weights_of(content: bytes) -> bytes:
    """The bytes of a safetensors file behind its header, which has the date."""
    return content[8 + int.from_bytes(content[:8], "little") :]


class TestBadInput:
    def test_a_missing_gpu_is_named(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [*PROGRAM, "--data", str(tmp_path), "--out", str(tmp_path / "run")],
            capture_output=True,
            text=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: PyTorch finds no GPU here (")
        assert done.stderr.endswith("; --rehearse runs on the CPU\n")
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("minutes", ["0", "0.5", "-3", "nan"])
    def test_a_time_that_is_too_short_is_refused(self, tmp_path: Path, minutes: str) -> None:
        with pytest.raises(ValueError, match="too short to start anything; give at least 1"):
            main(["--data", str(tmp_path), "--out", str(tmp_path), f"--minutes={minutes}"])

    def test_a_full_disk_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
        message = r"1\.0 GB are free on its disk; make room for 2\.1 GB"
        with pytest.raises(ValueError, match=message):
            main(["--data", str(tmp_path), "--out", str(tmp_path / "run")])

    def test_too_little_memory_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = subprocess.CompletedProcess([], 0, "warning\nA card\n2000000000\n8000000000\n", "")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
        with pytest.raises(ValueError, match=r"A card: 2\.0 of 8\.0 GB are free, 6\.4 are needed"):
            main(["--data", str(tmp_path), "--out", str(tmp_path / "run")])

    def test_missing_data_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_run, "probe_gpu", lambda: "a card")
        with pytest.raises(FileNotFoundError, match=r"no folder .*none; make one with --pack"):
            main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")])
        with pytest.raises(FileNotFoundError, match="holds no cifar100-1-of-N"):
            main(["--data", str(tmp_path), "--out", str(tmp_path / "run")])

    def test_a_summary_of_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=rf"holds neither {LIST} nor home-1-of-N\.part"):
            main(["--summary", str(tmp_path)])


def test_another_machine_goes_on_from_the_parts_and_what_came_home(
    parts: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The archive holds no data: a part of it would be taken for the whole."""
    carried, first, second = (tmp_path / name for name in ("carried", "first", "second"))
    shutil.copytree(parts, carried)
    gpu_run.unpack_data(carried, gpu_run.find_data(carried, first))
    (first / LIST).write_text("[]")
    for part in pack_home(first, first / "home")[0]:
        shutil.copy(part, carried)
    data = gpu_run.find_data(carried, second)
    assert (second / LIST).read_text() == "[]"
    gpu_run.unpack_data(carried, data)
    files = {path.name for path in (second / "data" / "cifar-100-binary").iterdir()}
    assert files == {"train.bin", "test.bin", "fine_label_names.txt"}


def test_checks_need_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "probe_gpu", lambda: "a card")
    ran = []
    monkeypatch.setattr(gpu_run, "work_down", lambda items, *_: ran.extend(items) or 0)
    flags = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*flags, "--only", "agreement", "--only", "speed"]) == 0
    assert [item.name for item in ran] == ["agreement", "speed"]
    assert all(item.most_minutes for item in ran)


def test_a_list_keeps_what_earlier_runs_had_on_theirs(tmp_path: Path) -> None:
    items = make_items(Path("data"))
    write_list(tmp_path, items[:3])
    write_list(tmp_path, items[2:4])
    assert [entry["name"] for entry in json.loads((tmp_path / LIST).read_text())] == [
        items[i].name for i in (2, 3, 0, 1)
    ]


class TestSharing:
    """What the item `speed` has measured decides whether processes share the GPU by MPS."""

    def rates(self, folder: Path, **rates: float) -> None:
        report = folder / "items" / "speed" / "report.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(
            json.dumps({"rates": {name.replace("_", " "): rate for name, rate in rates.items()}})
        )

    def test_turns_until_it_is_measured_then_what_was_faster(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rbsf.tools.gpu.sharing.Mps.start", lambda self: "")
        speed, training = (make_items(Path("data"), rbsf2=False)[number] for number in (1, 3))
        with gpu_run.Sharing(tmp_path) as sharing:
            assert sharing.variables(training) == {}
            self.rates(tmp_path, **{"4 processes": 2.0, "4 processes, MPS": 3.0})
            assert "CUDA_MPS_PIPE_DIRECTORY" in sharing.variables(training)
            assert sharing.variables(speed) == {}, "what is measured alone shares nothing"

    @pytest.mark.parametrize(
        ("at_once", "reason"), [(1.0, ""), (float("nan"), ""), (3.0, "it is not there")]
    )
    def test_turns_where_that_is_faster_or_all_there_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: float, reason: str
    ) -> None:
        monkeypatch.setattr("rbsf.tools.gpu.sharing.Mps.start", lambda self: reason)
        self.rates(tmp_path, **{"4 processes": 2.0, "4 processes, MPS": at_once})
        with gpu_run.Sharing(tmp_path) as sharing:
            assert sharing.variables(make_items(Path("data"))[3]) == {}


def test_a_service_that_fails_without_a_message_is_not_taken_for_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(Mps, "_run", fail)
    assert Mps(tmp_path).start() == "OSError"


def test_a_second_run_in_the_same_folder_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_run, "probe_gpu", lambda: "a card")
    run = tmp_path / "run"
    with locked(run), pytest.raises(ValueError, match="is in use by process"):
        main(["--data", str(tmp_path), "--out", str(run), "--only", "speed"])
    assert list(run.iterdir()) == []


def test_every_command_of_the_document_is_understood() -> None:
    """Those that need no GPU are run elsewhere.

    These are --rehearse and --summary above, and --pack in test_cifar_parts and test_gpu_distil.
    """
    text = (ROOT / "docs" / "gpu.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("python tools/gpu_run.py ")]
    assert len(commands) == 5
    for command in commands:
        gpu_run.parse_args(command.split()[2:])


def test_the_document_says_how_many_operations_a_step_needs() -> None:
    from benchmarks.step_speed import count_operations

    text = (ROOT / "docs" / "gpu.md").read_text()
    step = Namespace(device="cpu", stages="32-32-64-128", batch_size=128)
    assert f"| {count_operations(step) / 1e9:.0f} G |" in text


def test_logs_of_images_and_of_pairs_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: 40\n")
    for name, last in (("images", "2.0,,,0.99"), ("pairs", "40,2,1300,")):
        rows = f"step,epoch,{name}_per_s,val_top1\n20.0,1.0,1200.0,\n{last}\n"
        (tmp_path / "log.csv").write_text(rows)
        epochs, rate = _read_log(tmp_path)
        assert (epochs, rate) == {"images": ("1 of 40", "1,200"), "pairs": ("2 of 40", "1,250")}[
            name
        ]


def test_the_reason_of_a_failure_stays_in_its_cell(tmp_path: Path) -> None:
    item = make_items(Path("data"))[0]
    write_list(tmp_path, [item])
    write_state(tmp_path, item, State(FAILED, 60.0, "neither a | b"))
    row = summarise(tmp_path).splitlines()[4]
    assert row.startswith(f"| {item.name} | failed | ")
    assert row.endswith(r": neither a \| b |")


def test_an_installed_package_says_that_a_clone_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_run, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"clone it and run tools/gpu_run\.py there"):
        gpu_run.main(["--rehearse", "--out", str(tmp_path / "out")])
