"""Live sources: the newest frame is taken, silence ends them, and a short break does not."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from rbsf.datasets.video import live
from rbsf.datasets.video.live import NewestFrame, SourceEnded


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(live, "START_SECONDS", 0.5)
    monkeypatch.setattr(live, "SILENT_SECONDS", 0.4)
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.01)


def numbered(count=None, pause=0.005, start=0):
    """Frames that hold their numbers."""
    numbers = itertools.count(start) if count is None else range(start, start + count)
    for number in numbers:
        time.sleep(pause)
        yield np.full((2, 2, 3), number % 251, np.uint8)


def test_a_slow_reader_gets_the_newest_frame_and_age_does_not_grow():
    source = NewestFrame("camera", numbered)
    ages, seen, times = [], [], []
    for image, seconds in source:
        time.sleep(0.05)
        seen.append(int(image[0, 0, 0]))
        times.append(seconds)
        ages.append(source.count.age)
        if len(seen) == 10:
            break
    assert seen[0] == 0
    assert np.diff(seen).min() > 2
    assert max(ages[1:]) < 0.1
    assert source.count.dropped > 20
    assert times == sorted(times)


def test_the_first_frame_waits_for_whoever_takes_it():
    source = NewestFrame("camera", numbered)
    frames = iter(source)
    time.sleep(0.1)
    assert int(next(frames)[0][0, 0, 0]) == 0


def test_a_source_that_never_starts_is_named():
    source = NewestFrame("rtsp://nowhere", lambda: numbered(0))
    with pytest.raises(SourceEnded, match="rtsp://nowhere: no frame came within"):
        next(iter(source))


def test_a_source_that_fails_says_why():
    def refuse():
        raise ValueError("cannot be opened: connection refused")
        yield

    with pytest.raises(SourceEnded, match="cam cannot be opened: connection refused"):
        next(iter(NewestFrame("cam", refuse)))


def test_a_break_is_bridged():
    parts = iter([numbered(3), numbered(3, start=100)])
    source = NewestFrame("cam", lambda: next(parts, numbered(0)))
    frames = (int(image[0, 0, 0]) for image, _ in source)
    seen = [next(frames), *itertools.takewhile(lambda number: number < 102, frames)]
    assert seen[0] == 0
    with pytest.raises(SourceEnded, match="cam broke off after 6 frames"):
        next(frames)


def test_a_wait_ends_when_the_run_is_to_stop():
    def silent():
        time.sleep(5)
        yield

    source = NewestFrame("cam", silent)
    source.should_stop = lambda: True
    assert list(source) == []


def test_a_second_iteration_opens_the_source_anew():
    source = NewestFrame("cam", numbered)
    for _ in range(2):
        frames = (int(image[0, 0, 0]) for image, _ in source)
        assert next(frames) == 0
        frames.close()
        assert source.count.taken == 1
