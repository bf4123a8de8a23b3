"""A worklist of small programs that count: order, needs, failures, time slices, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from rbsf.system.lock import locked
from rbsf.train import worklist
from rbsf.train.worklist import (
    DONE,
    FAILED,
    STOPPED,
    TO_DO,
    Item,
    State,
    Worklist,
    last_line,
    progress_of,
    state_of,
)

# Counts to its second argument, into the file that is its first, a number in 0.02 s.
# SIGTERM ends it between two numbers.
COUNTER = """
import signal, sys, time
from pathlib import Path
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
path, last = Path(sys.argv[1]), int(sys.argv[2])
numbers = path.read_text().split() if path.exists() else []
while len(numbers) < last:
    numbers.append(str(len(numbers)))
    time.sleep(0.02)
    path.write_text(" ".join(numbers))
    if asked:
        sys.exit(143)
"""
PYTHON = """
import os, sys
print("started", flush=True)
exec(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worklist, "TOO_SHORT_SECONDS", 0.0)
    monkeypatch.setattr(worklist, "POLL_SECONDS", 0.01)


@pytest.fixture
def said() -> list[str]:
    return []


def program(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text)
    return str(path)


def python(folder: Path, name: str, code: str, **more: object) -> Item:
    return Item(name, (program(folder, PYTHON), code), "a try", 1.0, **more)  # type: ignore[arg-type]


def test_items_run_in_order_those_that_need_others_after_them(
    tmp_path: Path, said: list[str]
) -> None:
    note = "open('order', 'a').write('{} ')"
    items = [
        python(tmp_path, "last", note.format("last"), needs=("first",)),
        python(tmp_path, "alone", note.format("alone"), alone=True),
        python(tmp_path, "first", note.format("first")),
    ]
    assert Worklist(items, tmp_path / "run", 4, say=said.append).run() == 0
    assert (tmp_path / "run" / "order").read_text() == "alone first last "
    assert [line.split(" after")[0] for line in said] == [
        "begun: alone (a try)",
        "done: alone",
        "begun: first (a try)",
        "done: first",
        "begun: last (a try)",
        "done: last",
    ]
    assert Worklist(items, tmp_path / "run", 4, say=said.append).run() == 0
    assert len(said) == 6, "what is done is not done again"


def test_as_many_run_at_once_as_may(tmp_path: Path) -> None:
    code = "import time; open(f'{os.getpid()}.at', 'w').write(str(time.time())); time.sleep(0.4)"
    items = [python(tmp_path, f"item{i}", code) for i in range(4)]
    begin = time.monotonic()
    assert Worklist(items, tmp_path / "run", 2, say=lambda _: None).run() == 0
    assert time.monotonic() - begin > 0.8
    assert len(list((tmp_path / "run").glob("*.at"))) == 4


def test_a_failure_is_one_line_and_the_others_go_on(tmp_path: Path, said: list[str]) -> None:
    items = [
        python(tmp_path, "bad", "print('error: no room'); print('| a table |'); sys.exit(1)"),
        python(tmp_path, "child", "", needs=("bad",)),
        python(tmp_path, "good", ""),
    ]
    folder = tmp_path / "run"
    assert Worklist(items, folder, 1, say=said.append).run() == 1
    assert [state_of(folder, item).state for item in items] == [FAILED, TO_DO, DONE]
    (line,) = [line for line in said if line.startswith("failed")]
    assert line == f"failed: bad after 0:00: error: no room; log: {folder / 'items/bad/log.txt'}"
    repaired = [python(tmp_path, "bad", ""), *items[1:]]
    assert Worklist(repaired, folder, 1, say=said.append).run() == 0
    assert [state_of(folder, item).state for item in items] == [DONE, DONE, DONE]


def test_three_slices_of_time_give_what_one_gives(tmp_path: Path) -> None:
    counter = program(tmp_path, COUNTER)
    items = [Item(f"count{n}", (counter, f"{n}.txt", str(n)), "", 1.0) for n in (60, 70)]
    slices = []
    for _ in range(3):
        assert Worklist(items, tmp_path / "cut", 2, say=lambda _: None).run(0.6) == 0
        slices.append([state_of(tmp_path / "cut", item).state for item in items])
    assert slices[0] == [STOPPED, STOPPED]
    assert Worklist(items, tmp_path / "cut", 2, say=lambda _: None).run() == 0
    assert Worklist(items, tmp_path / "whole", 2, say=lambda _: None).run() == 0
    for name in ("60.txt", "70.txt"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert state_of(tmp_path / "cut", items[0]).seconds > 1.2, "the time of all slices"


def test_what_does_not_stop_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(worklist, "GRACE_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    item = python(tmp_path, "deaf", deaf)
    assert Worklist([item], tmp_path / "run", say=said.append).run(1.0) == 0
    assert state_of(tmp_path / "run", item).state == STOPPED


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match=r"is in use by process .*; wait for its end")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_an_item_that_outlived_its_run_is_ended_and_goes_on(
    tmp_path: Path, said: list[str]
) -> None:
    item = Item("count", (program(tmp_path, COUNTER), "n.txt", "30"), "a try", 1.0)
    slow = subprocess.Popen([sys.executable, item.command[0], "n.txt", "5000"], cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "n.txt").is_file())
        worklist.write_state(tmp_path, item, State("running", process=slow.pid))
        assert Worklist([item], tmp_path, say=said.append).run() == 0
        assert slow.wait(10) == 143
    finally:
        slow.kill()
    assert said[0] == "ending 1 that an earlier run has left at work"
    assert state_of(tmp_path, item).state == DONE


def test_a_process_that_has_the_number_of_an_item_that_is_gone_is_left_alone(
    tmp_path: Path,
) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    item = python(tmp_path, "good", "")
    try:
        worklist.write_state(tmp_path, item, State("running", process=other.pid))
        assert Worklist([item], tmp_path, say=lambda _: None).run() == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_takes_longer_than_it_may_has_failed(tmp_path: Path, said: list[str]) -> None:
    items = [
        python(tmp_path, "hangs", "import time; time.sleep(60)", most_minutes=0.01),
        python(tmp_path, "good", ""),
    ]
    assert Worklist(items, tmp_path / "run", 1, say=said.append).run() == 1
    assert state_of(tmp_path / "run", items[0]).reason == "longer than 0.01 minutes"
    assert state_of(tmp_path / "run", items[1]).state == DONE


def test_no_time_at_all_is_not_all_the_time(tmp_path: Path) -> None:
    item = python(tmp_path, "good", "")
    assert Worklist([item], tmp_path / "run", say=lambda _: None).run(0.0) == 0
    assert state_of(tmp_path / "run", item).state == TO_DO


def test_what_failed_before_comes_last(tmp_path: Path, said: list[str]) -> None:
    items = [python(tmp_path, "bad", "sys.exit(1)"), python(tmp_path, "good", "")]
    worklist.write_state(tmp_path / "run", items[0], State(FAILED))
    Worklist(items, tmp_path / "run", 1, say=said.append).run()
    assert [line.split()[1] for line in said if line.startswith("begun")] == ["good", "bad"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_and_keeps_what_is_there(tmp_path: Path, signum: signal.Signals) -> None:
    code = (
        "import sys; from pathlib import Path; from rbsf.train.worklist import Item, Worklist\n"
        f"item = Item('count', ({program(tmp_path, COUNTER)!r}, 'n.txt', '5000'), '', 1.0)\n"
        "sys.exit(Worklist([item], Path('run')).run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    counted = tmp_path / "run" / "n.txt"
    wait_for(lambda: counted.is_file() and bool(counted.read_text()))
    process.send_signal(signum)
    assert process.wait(30) == 128 + signum
    assert state_of(tmp_path / "run", Item("count", (), "", 1.0)).state == STOPPED
    numbers = counted.read_text().split()
    assert numbers == [str(n) for n in range(len(numbers))]


def test_progress_is_the_end_of_a_bar(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_line(log) == progress_of(log) == ""
    bar = "epoch 3/9:  21%|##   | 30/140 [03:12<09:41, 5.1kimage/s, loss=2]"
    log.write_text(f"first\n\repoch 1/9:  0%|  | 0/9\r{bar}\n\n")
    assert progress_of(log) == "epoch 3/9:  21% 03:12<09:41, 5.1kimage/s"
    log.write_text("no bar here\n")
    assert progress_of(log) == "no bar here"
