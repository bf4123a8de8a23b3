"""Cut the targets of sequences and still images out once, into a crop store.

`rbsf.datasets.pairs.crop_store` says what a store is.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rbsf.datasets.pairs.crop_store import Contents, Crop, CropWriter, finished_contents, make_crop
from rbsf.datasets.pairs.provenance import Origin, origin_of
from rbsf.datasets.pairs.stills import is_stills_folder, read_stills, warn_of_images
from rbsf.datasets.video.images import read_image
from rbsf.datasets.video.sequences import Sequence, VideoSequence, check_broken, load_sequences
from rbsf.datasets.video.sources import FramesInOrder, open_reader
from rbsf.datasets.workers import start_worker
from rbsf.system.text import listed, printable
from rbsf.tracker.geometry import check_box

MIN_TARGET = 8.0  # smallest sqrt(w * h) in pixels; smaller targets only show blur when enlarged
CHUNK = 128  # crops that one worker makes at a time: about 2 MB of JPEGs
COMMIT = 64  # fewest crops between two commits, since each commit waits for the disk

Faults = dict[int, str]  # what is wrong with each frame or box that could not be used
Result = tuple[list[Crop], Faults]
Mapper = Callable[[Iterator["Job"]], Iterator[Result]]  # the function that `_mapper` yields


@dataclass(frozen=True)
class Job:
    """Targets to cut out of one sequence (kind "video") or one image (kind "still").

    `frames`: ascending numbers of the N frames, or of a still's boxes. `boxes`: `[N, 4]` float64
    `x, y, w, h`; NaN means the whole image. `images`: an image file for each frame, or the video
    file that has them all.
    """

    source: str  # the folder that was given as data
    name: str
    kind: str
    frames: tuple[int, ...]
    boxes: np.ndarray
    images: tuple[str, ...] | Path
    origin: Origin

    @property
    def key(self) -> tuple[str, str]:
        """The key of this sequence in a store."""
        return self.source, self.name

    def part(self, rows: list[int]) -> Job:
        """The job for some of its frames, given by their places in `frames`."""
        frames = tuple(self.frames[row] for row in rows)
        images = self.images
        if not isinstance(images, Path):
            images = tuple(images[row] for row in rows)
        return replace(self, frames=frames, boxes=self.boxes[rows], images=images)

    def chunks(self) -> Iterator[Job]:
        """The job, cut into jobs of at most CHUNK frames."""
        rows = list(range(len(self.frames)))
        for start in range(0, len(rows), CHUNK):
            yield self.part(rows[start : start + CHUNK])

    def readers(self) -> Iterator[Callable[[], np.ndarray]]:
        """For each frame, in order, a function that reads it: `[H, W, 3]` uint8 RGB."""
        if isinstance(self.images, Path):
            video = _open_video(self.images)
            return (partial(video.frame, frame) for frame in self.frames)
        read_once = lru_cache(maxsize=1)(read_image)  # the boxes of a still share its image
        return (partial(read_once, path) for path in self.images)


@lru_cache(maxsize=1)
def _open_video(path: Path) -> FramesInOrder:
    """The frames of a video, decoded forward: the next frame takes 1 ms, a seek would take 40 ms.

    A process goes on where its last chunk of the video ended, so it decodes a long video once, not
    once for each chunk.
    """
    return FramesInOrder(open_reader(path))


@dataclass
class Report:
    """What `prepare` did.

    `changed`: names of sequences that were stored before, but from other boxes or frames.
    `warnings`: a line for each sequence with frames left out. `broken`: what is wrong with each
    sequence that was left out whole.
    """

    added: int = 0  # number of sequences, including those that were done again
    already_stored: int = 0  # number of sequences
    changed: list[str] = field(default_factory=list)
    sequences: int = 0  # number in the store now
    crops: int = 0  # number in the store now
    megabytes: float = 0.0  # size of the store, in 10^6 bytes
    warnings: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def prepare(
    data: list[Path],
    out: Path,
    every: int = 1,
    max_per_sequence: int | None = None,
    workers: int = 1,
    *,
    skip_broken: bool = False,
    progress: bool = True,
) -> Report:
    """Make, finish or extend the crop store `out`.

    `data` are sequence roots (of any layout) and folders of stills. Every `every`-th frame of a
    video is taken, then at most `max_per_sequence` of these, evenly spaced. Frames that cannot be
    read, or whose target is absent or too small, are left out. With `skip_broken`, sequences whose
    annotation cannot be read or does not match their frames are left out too, with a warning for
    each.

    Sequences that are stored already are skipped, so an interrupted run goes on where it stopped. A
    sequence with an unreadable frame is done again when a rerun can read it. So is one whose boxes
    or frames have changed since, and a message names it. Those that `data` does not have now are
    kept, and a message says how many. If nothing is left to do, the file is neither written to nor
    locked. What is stored does not depend on `workers` (1: in this process).
    Raises ValueError for unusable data, settings or an unfit `out`, and OSError if `out` cannot be
    written.
    """
    _check_numbers(every, max_per_sequence, workers)
    settings = {"every": str(every), "max_per_sequence": str(max_per_sequence)}
    report = Report()
    jobs: list[Job] = []
    for root in data:
        jobs += find_jobs(Path(root), every, max_per_sequence, report.broken)
    check_broken(report.broken, skip_broken)
    with _mapper(workers) as map_in_order:
        contents = finished_contents(Path(out), settings)
        todo = _select(jobs, contents, map_in_order, report) if contents else []
        if todo or contents is None:
            with CropWriter(out, settings) as writer:
                if contents is None or writer.resumed:
                    report.warnings.clear()
                    todo = _select(jobs, writer.contents(), map_in_order, report)
                _say_changed(report, out)
                _fill(writer, todo, map_in_order, report, progress)
                contents = writer.contents()
                if contents.crops == 0:
                    names = ", ".join(map(str, data))
                    raise ValueError(f"{names}: nothing could be prepared; {_first_fault(report)}")
                writer.finish()
    report.sequences, report.crops = len(contents.stored), contents.crops
    _say_kept(len(contents.stored - {job.key for job in jobs}), out)
    report.megabytes = Path(out).stat().st_size / 1e6
    return report


def _check_numbers(every: int, max_per_sequence: int | None, workers: int) -> None:
    """Raise ValueError naming the number that is too small."""
    for name, value in (("every", every), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give 1 or more")
    if max_per_sequence is not None and max_per_sequence < 2:
        raise ValueError(f"--max-per-sequence is {max_per_sequence}; give 2 or more for pairs")


def _first_fault(report: Report) -> str:
    faults = [*report.warnings, *report.broken, "no frame shows a target large enough"]
    return faults[0]


def find_jobs(root: Path, every: int, max_per_sequence: int | None, broken: list[str]) -> list[Job]:
    """List the jobs to do under one path.

    The faults of sequences that cannot be used are added to `broken`. Raises FileNotFoundError or
    ValueError if there is nothing to prepare.
    """
    source = printable(str(root.resolve()))
    if is_stills_folder(root):
        return [_still_job(source, path, boxes) for path, boxes in read_stills(root)]
    warn_of_images(root)
    faults: dict[str, str] = {}
    jobs = []
    for video in load_sequences(root, broken=faults):
        chosen = select_frames(video.boxes, every, max_per_sequence)
        jobs.append(_video_job(source, video, chosen))
    broken.extend(faults.values())
    return jobs


def _still_job(source: str, path: Path, boxes: np.ndarray) -> Job:
    chosen = np.flatnonzero(~_too_small(boxes))
    numbers = tuple(chosen.tolist())
    files = (str(path),) * len(chosen)
    origin = origin_of((str(path),), boxes, chosen, files)
    return Job(source, printable(path.name), "still", numbers, boxes[chosen], files, origin)


def _video_job(source: str, video: Sequence, chosen: np.ndarray) -> Job:
    if isinstance(video, VideoSequence):
        files = video.files()
        images: tuple[str, ...] | Path = Path(files[0])
    else:
        files = images = tuple(video.frames[frame] for frame in chosen)
    origin = origin_of(video.files(), video.boxes, chosen, files)
    numbers = tuple(chosen.tolist())
    return Job(source, printable(video.name), "video", numbers, video.boxes[chosen], images, origin)


def select_frames(boxes: np.ndarray, every: int, limit: int | None) -> np.ndarray:
    """Indices of each `every`-th frame that shows the target, evenly thinned to `limit`.

    `boxes` `[N, 4]`: `x, y, w, h`, NaN where the target is absent.
    """
    frames = np.arange(0, len(boxes), every)
    present = np.isfinite(boxes[frames]).all(axis=1)
    frames = frames[present & ~_too_small(boxes[frames])]
    if limit is None or len(frames) <= limit:
        return frames
    places = np.linspace(0, len(frames) - 1, limit).round().astype(int)
    return frames[places]


def _too_small(boxes: np.ndarray) -> np.ndarray:
    """Which boxes are too small, `[N]` bool.

    A box of no area does not count, because `make_crops` reports it as a fault. Neither does NaN,
    which stands for the whole image.
    """
    area = boxes[:, 2] * boxes[:, 3]
    return (area > 0) & (area < MIN_TARGET**2)


def _select(jobs: list[Job], contents: Contents, map_in_order: Mapper, report: Report) -> list[Job]:
    """Choose the jobs that have to be done, and note the others in the report.

    These are the jobs that are not stored yet, those that have changed since, and those with a
    frame that was left out before and can be used now. Warns of frames that the other jobs still
    leave out.
    """
    left_out = contents.left_out
    # A job that is stored but has no frames now has changed.
    jobs = [job for job in jobs if job.frames or job.key in left_out]
    changed = {job.key for job in jobs if _has_changed(job, contents)}
    report.changed = [job.name for job in jobs if job.key in changed]
    known = {key: frames for key, frames in left_out.items() if key not in changed}
    suspects = [_part_left_out(job, known) for job in jobs]
    results = map_in_order(_chunks(suspects))
    todo = []
    for job, suspect in zip(jobs, suspects, strict=True):
        made, faults = _take_results(suspect, results)
        if made or job.key not in known:
            todo.append(job)
        else:
            _warn(job, faults, report)
    report.already_stored = len(jobs) - len(todo)
    return todo


def _has_changed(job: Job, contents: Contents) -> bool:
    """Whether a job is stored, but from other boxes or frames.

    Stores made by early versions do not record this; their jobs count as unchanged.
    """
    if job.key not in contents.left_out or job.key not in contents.origins:
        return False
    return contents.origins[job.key].state != job.origin.state


def _part_left_out(job: Job, left_out: dict[tuple[str, str], list[int]]) -> Job:
    """The job for those of its frames that were left out before."""
    suspects = set(left_out.get(job.key, ()))
    return job.part([row for row, frame in enumerate(job.frames) if frame in suspects])


def _chunks(jobs: list[Job]) -> Iterator[Job]:
    for job in jobs:
        yield from job.chunks()


def _take_results(job: Job, results: Iterator[Result]) -> tuple[int, Faults]:
    """Take the results of the job's chunks: the number of crops, and the faults."""
    made = 0
    faults: Faults = {}
    for _ in job.chunks():
        crops, chunk_faults = next(results)
        made += len(crops)
        faults |= chunk_faults
    return made, faults


def _say_changed(report: Report, out: Path) -> None:
    if not report.changed:
        return
    names = listed(report.changed)
    what = f"{len(report.changed)} sequences have other boxes or frames than when they were cut out"
    tqdm.write(f"{out}: {what}, and are cut out again: {names}", file=sys.stderr)


def _say_kept(count: int, out: Path) -> None:
    if count:
        kept = f"keeps {count} sequences of earlier runs that --data does not have now"
        advice = "to be without them, delete the file and prepare it again"
        tqdm.write(f"{out}: {kept}; {advice}", file=sys.stderr)


def _fill(
    writer: CropWriter, jobs: list[Job], map_in_order: Mapper, report: Report, progress: bool
) -> None:
    """Do the jobs, in order.

    Only whole sequences are committed, so that a rerun can skip what is there.
    """
    total = sum(len(job.frames) for job in jobs)
    results = map_in_order(_chunks(jobs))
    uncommitted = 0
    with tqdm(total=total, unit="crop", desc="cropping", disable=not progress) as bar:
        for job in jobs:
            made, faults = _store(writer, job, results, bar)
            report.added += made > 0
            _warn(job, faults, report)
            uncommitted += made
            if uncommitted >= COMMIT:
                writer.commit()
                uncommitted = 0


def _store(
    writer: CropWriter, job: Job, results: Iterator[Result], bar: tqdm
) -> tuple[int, Faults]:
    """Store the results of one job's chunks.

    Returns the number of crops, and the faults.
    """
    sequence: int | None = None
    made = 0
    faults: Faults = {}
    writer.remove(*job.key)
    for chunk in job.chunks():
        crops, chunk_faults = next(results)
        made += len(crops)
        faults |= chunk_faults
        if crops and sequence is None:
            sequence = writer.add_sequence(job.source, job.name, job.kind)
        if sequence is not None:
            writer.add_crops(sequence, crops)
        bar.update(len(chunk.frames))
    writer.leave_out(*job.key, faults)
    writer.note_origin(*job.key, job.origin)
    return made, faults


def _warn(job: Job, faults: Faults, report: Report) -> None:
    if faults:
        first = next(iter(faults.values()))
        warning = f"{job.name}: left out {len(faults)} of {len(job.frames)}; first: {first}"
        report.warnings.append(warning)
        tqdm.write(f"warning: {warning}", file=sys.stderr)


def make_crops(job: Job) -> Result:
    """Cut out the targets of one job."""
    crops: list[Crop] = []
    faults: Faults = {}
    what = "frame" if job.kind == "video" else "box"
    for frame, box, read in zip(job.frames, job.boxes, job.readers(), strict=True):
        try:
            image = read()
            height, width = image.shape[:2]
            if np.isnan(box).any():
                box = np.array([0.0, 0.0, width, height])
            check_box(box, width, height)
            crops.append(make_crop(image, box, frame))
        except (ValueError, OSError) as error:
            faults[frame] = f"{what} {frame}: {error}"
    return crops, faults


@contextmanager
def _mapper(workers: int) -> Iterator[Mapper]:
    """Yield a function that maps `make_crops` over jobs, in order, in `workers` processes."""
    if workers == 1:
        try:
            yield lambda jobs: map(make_crops, jobs)
        finally:
            _open_video.cache_clear()
        return
    # The processes start when they are needed. They are spawned, not forked: the caller may have
    # threads (of torch and OpenCV), which do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=start_worker)
    try:
        yield lambda jobs: _map_bounded(pool, jobs, 2 * workers)
    except BrokenProcessPool as error:
        # The pool ends its workers except one that it was just starting, but waits for that too.
        for worker in set(multiprocessing.active_children()) - set(others):
            worker.kill()
        fault = "a worker process died, perhaps for want of memory"
        raise OSError(f"{fault}; rerun with fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map_bounded(pool: ProcessPoolExecutor, jobs: Iterator[Job], limit: int) -> Iterator[Result]:
    """Map `make_crops` over jobs, in order, with at most `limit` of them running or waiting."""
    under_way: deque[Future[Result]] = deque()
    for job in jobs:
        under_way.append(_submit(pool, job))
        if len(under_way) == limit:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _submit(pool: ProcessPoolExecutor, job: Job) -> Future[Result]:
    """Let a worker do `job`. Raises BrokenProcessPool if a worker has died."""
    try:
        return pool.submit(make_crops, job)
    except (OSError, ValueError) as error:
        # A breaking pool may close its pipe first; starting a worker then raises ValueError (about
        # "fds_to_keep").
        raise BrokenProcessPool(str(error)) from error
