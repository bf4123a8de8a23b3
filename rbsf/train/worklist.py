"""Runs a list of commands on one machine for a limited time, several at once.

Each command is an item with its own folder, `FOLDER/items/NAME`, for its log and its state. An item
that SIGTERM asks to stop saves its work, and continues from there in the next run. This module does
not know what an item computes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rbsf.system.files import write_atomically
from rbsf.system.stop import StopRequest
from rbsf.train import CHECKPOINT

GRACE_SECONDS = 20  # time between the request to stop and the kill
TOO_SHORT_SECONDS = 15  # nothing is started with less time left
POLL_SECONDS = 0.2  # time between checks of running items
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # signals that ask a program to end
STOPPED_CODES = {128 + signum for signum in ASKING}  # programs that saved their state
KILLED_CODES = {-signal.SIGTERM, -signal.SIGHUP, -signal.SIGKILL}  # programs that a signal ended

TO_DO, RUNNING, STOPPED, FAILED, DONE = "to do", "running", "stopped", "failed", "done"


@dataclass(frozen=True)
class Item:
    """One entry of a list: a command, what it needs, and what it is worth."""

    name: str
    command: tuple[str, ...]  # the words after `python`; it runs in the list's folder
    worth: str
    minutes: float
    needs: tuple[str, ...] = ()  # names of items that must be done before
    alone: bool = False  # whether nothing else may run at the same time
    results: str = ""  # a folder inside the list's folder, for the item's results
    most_minutes: float | None = None  # an item that takes longer in one run has failed
    again: tuple[str, ...] = ()  # words added to the command if `results` holds a checkpoint


@dataclass
class State:
    """The progress of an item."""

    state: str = TO_DO
    seconds: float = 0.0  # total time in all runs
    reason: str = ""  # reason of a failure
    process: int = 0  # process number while it runs


@dataclass
class Running:
    """A running item."""

    item: Item
    process: subprocess.Popen
    started: float
    asked: bool = False  # whether it was asked to stop


@dataclass
class Worklist:
    """Items in the order of their worth; they run in `folder`, at most `beside` at once.

    The caller must have locked the folder. Items that failed in an earlier run come last.
    `environment` returns further variables for an item before it starts. `say` gets lines that
    report what happens.
    """

    items: Sequence[Item]
    folder: Path
    beside: int = 4
    environment: Callable[[Item], dict[str, str]] = lambda item: {}
    say: Callable[[str], None] = print
    say_seconds: float = 20.0
    running: list[Running] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    def run(self, seconds: float | None = None) -> int:
        """Work for at most `seconds`.

        Returns 0, or 1 if an item failed, or 128 + signal if a signal ended the work.
        """
        with StopRequest() as stop:
            self._end_orphans()
            begin = time.monotonic()
            end = None if seconds is None else begin + seconds
            try:
                self._work(begin, end, stop)
                self._stop_all()
            finally:
                self._kill_all()
        if stop.signum:
            return 128 + stop.signum
        return int(any(self._is(item, FAILED) for item in self.items))

    def _is(self, item: Item, state: str) -> bool:
        return state_of(self.folder, item).state == state

    def _work(self, begin: float, end: float | None, stop: StopRequest) -> None:
        """Start items and collect ended ones until all are done, time is up or a signal comes."""
        said = begin
        total = end - begin if end else None
        while not stop.signum:
            now = time.monotonic()
            left = end - now if end else float("inf")
            self._reap()
            self._end_what_takes_too_long()
            if left > TOO_SHORT_SECONDS:
                self._start_what_can_run()
            if left <= 0 or not self.running:
                return
            if now - said > self.say_seconds:
                self.say(self._describe(now - begin, total))
                said = now
            time.sleep(POLL_SECONDS)

    def _start_what_can_run(self) -> None:
        for item in self._candidates():
            if len(self.running) >= self.beside or (item.alone and self.running):
                return
            self._start(item)
            if item.alone:
                return

    def _candidates(self) -> Iterator[Item]:
        """Items that could start now, in order; none while an item runs that must be alone."""
        if any(running.item.alone for running in self.running):
            return
        failed_last = sorted(self.items, key=lambda item: self._is(item, FAILED))
        for item in failed_last:
            if item.name not in self.tried and not self._is(item, DONE) and self._can_start(item):
                yield item

    def _can_start(self, item: Item) -> bool:
        """Whether all items that `item` needs are done."""
        needed = [other for other in self.items if other.name in item.needs]
        done = {other.name for other in needed if self._is(other, DONE)}
        return done.issuperset(item.needs)

    def _start(self, item: Item) -> None:
        folder = item_folder(self.folder, item)
        folder.mkdir(parents=True, exist_ok=True)
        self.tried.add(item.name)
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                self._command(item),
                cwd=self.folder,
                env={**os.environ, **self.environment(item)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C only reaches this process; it asks items to stop
            )
        state = state_of(self.folder, item)
        write_state(self.folder, item, State(RUNNING, state.seconds, process=process.pid))
        self.running.append(Running(item, process, time.monotonic()))
        self.say(f"begun: {item.name} ({item.worth})")

    def _command(self, item: Item) -> list[str]:
        words = [sys.executable, *item.command]
        if item.results and (self.folder / item.results / CHECKPOINT).is_file():
            words += item.again
        return words

    def _reap(self) -> None:
        """Record the items that have ended."""
        for running in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(running)
            self._finish(running)

    def _finish(self, running: Running) -> None:
        item, log = running.item, self._log(running.item)
        seconds = state_of(self.folder, item).seconds + time.monotonic() - running.started
        state, reason = _how_it_ended(running, log)
        write_state(self.folder, item, State(state, seconds, reason))
        note = f": {reason}; log: {log}" if state == FAILED else ""
        self.say(f"{state}: {item.name} after {clock(seconds)}{note}")

    def _log(self, item: Item) -> Path:
        return item_folder(self.folder, item) / "log.txt"

    def _end_what_takes_too_long(self) -> None:
        for running in self.running:
            if not running.asked and _takes_too_long(running):
                running.asked = True
                running.process.terminate()
            elif running.asked and _takes_too_long(running, GRACE_SECONDS):
                running.process.kill()

    def _stop_all(self) -> None:
        """Ask all running items to stop, and wait for them."""
        for running in self.running:
            running.asked = True
            running.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.running and time.monotonic() < deadline:
            self._reap()
            time.sleep(POLL_SECONDS)

    def _kill_all(self) -> None:
        for running in self.running:
            running.asked = True
            running.process.kill()
            running.process.wait()
        self._reap()

    def _describe(self, passed: float, total: float | None) -> str:
        """The overall progress in one line."""
        done = sum(self._is(item, DONE) for item in self.items)
        span = f"{clock(passed)} of {clock(total)}" if total else clock(passed)
        parts = [f"{span}, {done} of {len(self.items)} done"]
        for running in self.running:
            parts.append(f"{running.item.name}: {progress_of(self._log(running.item))}")
        return " | ".join(parts)

    def _end_orphans(self) -> None:
        """End items that a killed run left running; they can continue from their saved state."""
        orphans = []
        for item in self.items:
            state = state_of(self.folder, item)
            if state.state == RUNNING and _runs(state.process, item):
                orphans.append(state.process)
        if not orphans:
            return
        self.say(f"ending {len(orphans)} that an earlier run has left at work")
        _signal(orphans, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(map(_is_alive, orphans)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        _signal(orphans, signal.SIGKILL)


def item_folder(folder: Path, item: Item) -> Path:
    """The folder with the log and the state of an item."""
    return folder / "items" / item.name


def state_of(folder: Path, item: Item) -> State:
    """The state of `item`; `TO_DO` if no state can be read."""
    try:
        return State(**json.loads((item_folder(folder, item) / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return State()


def write_state(folder: Path, item: Item, state: State) -> None:
    """Save the state of `item` for this run and later ones."""
    text = json.dumps(asdict(state), indent=1)
    write_atomically(item_folder(folder, item) / "state.json", text.encode())


def last_line(log: Path, begins: str = "") -> str:
    """The last line of a log that is not empty and begins with `begins`; "" if there is none."""
    lines = [line.strip() for line in _tail(log).replace("\r", "\n").splitlines()]
    for line in reversed(lines):
        if line and line.startswith(begins):
            return line
    return ""


def reason_in(log: Path) -> str:
    """The reason why a program failed: the last error in its log, else the last line."""
    return last_line(log, "error: ") or last_line(log)


def progress_of(log: Path) -> str:
    """The progress bar at the end of a log in short, as "epoch 1/2:  50% 03:12<03:10, 51it/s".

    Without a bar it is the last line, at most 80 characters of it.
    """
    line = last_line(log)
    head, bar, rest = line.partition("|")
    if not bar:
        return line[:80]
    times = rest.rpartition("[")[2].partition("]")[0]  # "03:12<09:41, 5.1kimage/s, loss=2.1"
    return f"{head.strip()} {', '.join(times.split(', ')[:2])}"


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _tail(path: Path, size: int = 4096) -> str:
    """The last `size` bytes of a file as text; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _how_it_ended(running: Running, log: Path) -> tuple[str, str]:
    """The state of an item that has ended, and the reason if it failed."""
    code = running.process.returncode
    if code == 0:
        return DONE, ""
    if running.asked and _takes_too_long(running):
        return FAILED, f"longer than {running.item.most_minutes:g} minutes"
    if code in STOPPED_CODES or (running.asked and code in KILLED_CODES):
        return STOPPED, ""
    return FAILED, reason_in(log) or f"exit code {code}"


def _takes_too_long(running: Running, grace: float = 0.0) -> bool:
    most = running.item.most_minutes
    return most is not None and time.monotonic() - running.started > 60 * most + grace


def _runs(process: int, item: Item) -> bool:
    """Whether the process of this number runs the command of `item`.

    It is False if the system does not say.
    """
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(item.command[0]) in words


def _signal(processes: Sequence[int], signum: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signum)


def _is_alive(process: int) -> bool:
    """Whether a process runs; a zombie, which has ended and waits for its parent, does not."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False
    return after_name.split()[0] != "Z"
