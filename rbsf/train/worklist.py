"""A list of commands, worked down on one machine for a limited time, several beside each other.

Each command is an item with a folder of its own, `FOLDER/items/NAME`, for its log and its state.
An item that is asked to stop by SIGTERM keeps what it has and goes on from there in the next run:
nothing here knows what it computes.
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

CHECKPOINT = "checkpoint.pt"
GRACE_SECONDS = 20  # from the request to stop to the end by force
TOO_SHORT_SECONDS = 15  # nothing is begun with less time left
POLL_SECONDS = 0.2
STOPPED_CODES = {128 + signal.SIGTERM, 128 + signal.SIGINT}

TO_DO, RUNNING, STOPPED, FAILED, DONE = "to do", "running", "stopped", "failed", "done"


@dataclass(frozen=True)
class Item:
    """One entry of a list: a command, what it needs, and what it is worth.

    `command`: the words behind `python`, run in the list's folder.  `needs`: names of items that
    have to be done before.  `alone`: nothing else runs beside it.  `results`: a folder below the
    list's with what it made. `most_minutes`: it has failed where it takes longer in one run; None:
    as long as it likes.  `again`: further words of the command where `results` holds a checkpoint.
    """

    name: str
    command: tuple[str, ...]
    worth: str
    minutes: float
    needs: tuple[str, ...] = ()
    alone: bool = False
    results: str = ""
    most_minutes: float | None = None
    again: tuple[str, ...] = ()


@dataclass
class State:
    """How far an item is; `seconds` in all runs together, `reason` of a failure, `process` while it
    runs.
    """

    state: str = TO_DO
    seconds: float = 0.0
    reason: str = ""
    process: int = 0


@dataclass
class Running:
    """An item at work."""

    item: Item
    process: subprocess.Popen
    started: float
    asked: bool = False  # to stop


@dataclass
class Worklist:
    """Items in the order of their worth, worked down in `folder`, which is locked, at most `beside`
    of them at once.

    Items that failed in an earlier run come last.  `environment` gives further variables for an
    item about to start; `say` takes lines on what happens.
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
        """Work for at most `seconds`; 0, 1 where an item failed, 128 + signal where a signal ended
        it.
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
        return int(any(state_of(self.folder, item).state == FAILED for item in self.items))

    def _work(self, begin: float, end: float | None, stop: StopRequest) -> None:
        """Start and reap until all is done, the time is up or a signal has come."""
        said = begin
        while not stop.signum:
            now = time.monotonic()
            left = end - now if end else float("inf")
            self._reap()
            self._end_what_takes_too_long()
            if left <= 0:
                return
            if left > TOO_SHORT_SECONDS:
                self._start_what_can_run()
            if not self.running:
                return
            if now - said > self.say_seconds:
                self.say(self._describe(now - begin, end - begin if end else None))
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
        """Items that could start now, in order; none while one runs that wants to be alone."""
        if any(running.item.alone for running in self.running):
            return
        for item in sorted(
            self.items, key=lambda item: state_of(self.folder, item).state == FAILED
        ):
            if item.name in self.tried or state_of(self.folder, item).state == DONE:
                continue
            if not self._unmet(item):
                yield item

    def _unmet(self, item: Item) -> list[str]:
        states = {
            other.name: state_of(self.folder, other).state
            for other in self.items
            if other.name in item.needs
        }
        return [name for name in item.needs if states.get(name) != DONE]

    def _start(self, item: Item) -> None:
        folder = item_folder(self.folder, item)
        folder.mkdir(parents=True, exist_ok=True)
        self.tried.add(item.name)
        begun = item.results and (self.folder / item.results / CHECKPOINT).is_file()
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *item.command, *(item.again if begun else ())],
                cwd=self.folder,
                env={**os.environ, **self.environment(item)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C reaches this process alone, which then asks all items
            )
        state = state_of(self.folder, item)
        write_state(self.folder, item, State(RUNNING, state.seconds, process=process.pid))
        self.running.append(Running(item, process, time.monotonic()))
        self.say(f"begun: {item.name} ({item.worth})")

    def _reap(self) -> None:
        for running in [r for r in self.running if r.process.poll() is not None]:
            self.running.remove(running)
            self._finish(running)

    def _finish(self, running: Running) -> None:
        item, code = running.item, running.process.returncode
        seconds = state_of(self.folder, item).seconds + time.monotonic() - running.started
        if code == 0:
            state = State(DONE, seconds)
        elif running.asked and _takes_too_long(running):
            state = State(FAILED, seconds, f"longer than {item.most_minutes:g} minutes")
        elif code in STOPPED_CODES or (
            running.asked and code in (-signal.SIGTERM, -signal.SIGKILL)
        ):
            state = State(STOPPED, seconds)
        else:
            state = State(
                FAILED,
                seconds,
                reason_in(item_folder(self.folder, item) / "log.txt") or f"exit code {code}",
            )
        write_state(self.folder, item, state)
        note = (
            f": {state.reason}; log: {item_folder(self.folder, item) / 'log.txt'}"
            if state.state == FAILED
            else ""
        )
        self.say(f"{state.state}: {item.name} after {clock(seconds)}{note}")

    def _end_what_takes_too_long(self) -> None:
        for running in self.running:
            if not running.asked and _takes_too_long(running):
                running.asked = True
                running.process.terminate()
            elif running.asked and _takes_too_long(running, GRACE_SECONDS):
                running.process.kill()

    def _stop_all(self) -> None:
        """Ask all that runs to stop, and wait for it."""
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
        done = sum(state_of(self.folder, item).state == DONE for item in self.items)
        span = f"{clock(passed)} of {clock(total)}" if total else clock(passed)
        parts = [
            f"{r.item.name}: {progress_of(item_folder(self.folder, r.item) / 'log.txt')}"
            for r in self.running
        ]
        return f"{span}, {done} of {len(self.items)} done | " + " | ".join(parts)

    def _end_orphans(self) -> None:
        """End items that a killed run has left at work; they go on from what they have saved."""
        states = [(item, state_of(self.folder, item)) for item in self.items]
        orphans = [
            state.process
            for item, state in states
            if state.state == RUNNING and _runs(state.process, item)
        ]
        if not orphans:
            return
        self.say(f"ending {len(orphans)} that an earlier run has left at work")
        _signal(orphans, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(map(_is_alive, orphans)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        _signal(orphans, signal.SIGKILL)


def item_folder(folder: Path, item: Item) -> Path:
    """Where the log and the state of an item are."""
    return folder / "items" / item.name


def state_of(folder: Path, item: Item) -> State:
    """How far `item` is; to do where nothing readable says otherwise."""
    try:
        return State(**json.loads((item_folder(folder, item) / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return State()


def write_state(folder: Path, item: Item, state: State) -> None:
    """Keep the state of `item` for this run and later ones."""
    write_atomically(
        item_folder(folder, item) / "state.json", json.dumps(asdict(state), indent=1).encode()
    )


def last_line(log: Path, begins: str = "") -> str:
    """The last line of a log that is not empty and begins like that; empty where there is none."""
    lines = [line.strip() for line in _tail(log).replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line and line.startswith(begins)), "")


def reason_in(log: Path) -> str:
    """Why a program has failed, by its log: the last error that it told, else what it said last."""
    return last_line(log, "error: ") or last_line(log)


def progress_of(log: Path) -> str:
    """What a progress bar at the end of a log says, such as "epoch 3/200: 2% 1:02 left, 51,000
    image/s".
    """
    line = last_line(log)
    head, bar, rest = line.partition("|")
    if not bar:
        return line[:80]
    times = rest.rpartition("[")[2].partition("]")[
        0
    ]  # such as "03:12<09:41, 5.1kimage/s, loss=2.1"
    return f"{head.strip()} {', '.join(times.split(', ')[:2])}"


def clock(seconds: float) -> str:
    """Such as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _tail(path: Path, size: int = 4096) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _takes_too_long(running: Running, grace: float = 0.0) -> bool:
    most = running.item.most_minutes
    return most is not None and time.monotonic() - running.started > 60 * most + grace


def _runs(process: int, item: Item) -> bool:
    """Whether the process of this number runs the command of `item`; False where the system does
    not tell.
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
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
