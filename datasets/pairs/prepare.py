"""Cut the targets of sequences and still images out once, into a crop store (see
`rbsf.datasets.pairs.crop_store`).
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
from rbsf.datasets.pairs.stills import is_stills_folder, read_stills
from rbsf.datasets.video.frames import open_frames, read_image
from rbsf.datasets.video.sequences import Sequence, VideoSequence, check_broken, load_sequences
from rbsf.datasets.workers import start_worker
from rbsf.tracker.geometry import check_box

MIN_TARGET = 8.0  # pixels, sqrt(w * h): a smaller target shows nothing but blur once it is enlarged
CHUNK = 128  # crops that one worker makes at a time: about 2 MB of JPEGs
COMMIT = 64  # crops at least between two commits, which wait for the disk

Result = tuple[
    list[Crop], dict[int, str]
]  # crops, and what is wrong with each frame or box that could not be used
Mapper = Callable[[Iterator["Job"]], Iterator[Result]]


@dataclass(frozen=True)
class Job:
    """Targets to cut out of one sequence (kind "video") or one image (kind "still").

    `frames`: numbers of the frames, ascending; of a still, of its boxes. `boxes`: (len(frames),
    4) float64 `x, y, w, h`; NaN: the whole image.
    """

    source: str  # the folder given as data
    name: str
    kind: str
    frames: tuple[int, ...]
    boxes: np.ndarray
    images: (
        tuple[str, ...] | Path
    )  # an image file for each frame, or the video file that has them all
    origin: Origin

    @property
    def key(self) -> tuple[str, str]:
        """What tells sequences apart in a store."""
        return self.source, self.name

    def part(self, rows: list[int]) -> Job:
        """The job for some of its frames, given by their places in `frames`."""
        images = (
            self.images
            if isinstance(self.images, Path)
            else tuple(self.images[row] for row in rows)
        )
        return replace(
            self,
            frames=tuple(self.frames[row] for row in rows),
            boxes=self.boxes[rows],
            images=images,
        )

    def chunks(self) -> Iterator[Job]:
        """The job, cut into jobs of at most CHUNK frames."""
        for start in range(0, len(self.frames), CHUNK):
            yield self.part(list(range(start, min(start + CHUNK, len(self.frames)))))

    def readers(self) -> Iterator[Callable[[], np.ndarray]]:
        """For each frame, in order, a function that reads it: H x W x 3 uint8 RGB."""
        if isinstance(self.images, Path):
            video = _open_video(self.images)
            return (partial(video.read, frame) for frame in self.frames)
        image = lru_cache(maxsize=1)(read_image)  # the boxes of a still share theirs
        return (partial(image, path) for path in self.images)


class _Video:
    """A video file, decoded forward as long as frames are asked for in order: the next takes 1 ms,
    a seek 40 ms.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frames: Iterator[np.ndarray] = iter(())
        self._next = sys.maxsize  # behind whatever is asked for first, which opens the file

    def read(self, wanted: int) -> np.ndarray:
        """Frame `wanted`, H x W x 3 uint8 RGB; ValueError where it cannot be decoded."""
        if wanted < self._next:
            self._frames, self._next = iter(open_frames(self.path)), 0
        for image in self._frames:
            self._next += 1
            if self._next > wanted:
                return image
        raise ValueError(f"the video ends before frame {wanted}")


# a process goes on where its last chunk of the video ended: a long video costs it one decoding, not
# one for each chunk
_open_video = lru_cache(maxsize=1)(_Video)


@dataclass
class Report:
    """What `prepare` did. `warnings` has one line for each sequence of which something was left
    out.
    """

    added: int = 0  # sequences, those that were done again included
    already_stored: int = 0  # sequences
    changed: list[str] = field(
        default_factory=list
    )  # names of those that were stored, but from other boxes or frames
    sequences: int = 0  # in the store now
    crops: int = 0  # in the store now
    megabytes: float = 0.0  # size of the store, in 10^6 bytes
    warnings: list[str] = field(default_factory=list)
    broken: list[str] = field(
        default_factory=list
    )  # what is wrong with each sequence that was left out as a whole


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
    """Make, finish or extend the crop store `out` from sequence roots (any layout) and folders of
    stills.

    Of a video every `every`-th frame is taken, then at most `max_per_sequence`, evenly spaced;
    frames whose target is absent, unreadable or too small are left out, and with `skip_broken`,
    each with a warning, sequences whose annotation cannot be read or does not match their frames.
    Sequences already stored are skipped, so an interrupted run goes on where it stopped; one with
    an unreadable frame is done again once a rerun can read it, and one whose boxes or frames have
    changed since, which a line says. Where nothing is left to do the file is not written to, nor
    locked. What is stored does not depend on `workers` (1 = in this process). Raises ValueError
    for unusable data, settings or an unfit `out`, OSError where it cannot be written.
    """
    if every < 1 or workers < 1 or (max_per_sequence is not None and max_per_sequence < 2):
        numbers = f"every {every}, workers {workers}, max per sequence {max_per_sequence}"
        raise ValueError(f"{numbers}: need at least 1, at least 1, and at least 2 if given")
    settings = {"every": str(every), "max_per_sequence": str(max_per_sequence)}
    report = Report()
    jobs = [
        job
        for root in data
        for job in find_jobs(Path(root), every, max_per_sequence, report.broken)
    ]
    check_broken(report.broken, skip_broken)
    with _mapper(workers) as map_in_order:
        contents = finished_contents(Path(out), settings)
        todo = _select(jobs, contents, map_in_order, report) if contents else []
        if todo or contents is None:
            with CropWriter(out, settings) as writer:
                if contents is None:
                    todo = _select(jobs, writer.contents(), map_in_order, report)
                _say_changed(report, out)
                _fill(writer, todo, map_in_order, report, progress)
                contents = writer.contents()
                if contents.crops == 0:
                    reasons = [
                        *report.warnings,
                        *report.broken,
                        "no frame shows a target large enough",
                    ]
                    raise ValueError(
                        f"{', '.join(map(str, data))}: nothing could be prepared; {reasons[0]}"
                    )
                writer.finish()
    report.sequences, report.crops = contents.sequences, contents.crops
    report.megabytes = Path(out).stat().st_size / 1e6
    return report


def find_jobs(root: Path, every: int, max_per_sequence: int | None, broken: list[str]) -> list[Job]:
    """List what is to be prepared under one path; what is wrong with other sequences there is added
    to `broken`.

    Raises FileNotFoundError or ValueError where there is nothing.
    """
    source = str(root.resolve())
    jobs = []
    if is_stills_folder(root):
        for path, boxes in read_stills(root):
            chosen = np.flatnonzero(~_too_small(boxes))
            files = (str(path),) * len(chosen)
            origin = origin_of((str(path),), boxes, chosen, files)
            jobs.append(
                Job(
                    source, path.name, "still", tuple(chosen.tolist()), boxes[chosen], files, origin
                )
            )
    else:
        faults: dict[str, str] = {}
        for video in load_sequences(root, broken=faults):
            chosen = select_frames(video.boxes, every, max_per_sequence)
            jobs.append(_video_job(source, video, chosen))
        broken.extend(faults.values())
    return jobs


def _video_job(source: str, video: Sequence, chosen: np.ndarray) -> Job:
    in_file = isinstance(video, VideoSequence)
    files = video.files() if in_file else tuple(video.frames[frame] for frame in chosen)
    origin = origin_of(video.files(), video.boxes, chosen, files)
    images = Path(files[0]) if in_file else files
    return Job(
        source, video.name, "video", tuple(chosen.tolist()), video.boxes[chosen], images, origin
    )


def select_frames(boxes: np.ndarray, every: int, limit: int | None) -> np.ndarray:
    """Indices of each `every`-th frame that shows the target, evenly thinned to `limit`.

    `boxes` (N, 4): `x, y, w, h`, NaN where absent.
    """
    frames = np.arange(0, len(boxes), every)
    frames = frames[np.isfinite(boxes[frames]).all(axis=1) & ~_too_small(boxes[frames])]
    if limit is None or len(frames) <= limit:
        return frames
    return frames[np.linspace(0, len(frames) - 1, limit).round().astype(int)]


def _too_small(boxes: np.ndarray) -> np.ndarray:
    area = (
        boxes[:, 2] * boxes[:, 3]
    )  # no area at all is a fault and is reported later; NaN is no size
    return (area > 0) & (area < MIN_TARGET**2)


def _select(jobs: list[Job], contents: Contents, map_in_order: Mapper, report: Report) -> list[Job]:
    """The jobs not stored yet, those that have changed since, and those of which a frame that was
    left out can be used now; warns of the others'.
    """
    left_out, states = (
        contents.left_out,
        {key: origin.state for key, origin in contents.origins.items()},
    )
    jobs = [
        job for job in jobs if job.frames or job.key in left_out
    ]  # with no frame now, but some before: changed
    changed = {
        job.key
        for job in jobs
        if job.key in left_out and states.get(job.key, job.origin.state) != job.origin.state
    }
    report.changed = [job.name for job in jobs if job.key in changed]
    suspects = []
    for job in jobs:
        frames = set() if job.key in changed else set(left_out.get(job.key, ()))
        suspects.append(job.part([row for row, frame in enumerate(job.frames) if frame in frames]))
    results = map_in_order(chunk for suspect in suspects for chunk in suspect.chunks())
    todo = []
    for job, suspect in zip(jobs, suspects, strict=True):
        made, faults = 0, dict[int, str]()
        for _ in suspect.chunks():
            crops, chunk_faults = next(results)
            made += len(crops)
            faults |= chunk_faults
        if made or job.key not in left_out or job.key in changed:
            todo.append(job)
        else:
            _warn(job, faults, report)
    report.already_stored = len(jobs) - len(todo)
    return todo


def _say_changed(report: Report, out: Path) -> None:
    if report.changed:
        names = ", ".join(report.changed[:3]) + ", ..." * (len(report.changed) > 3)
        what = f"{len(report.changed)} sequences have other boxes or frames than when they were cut out"
        tqdm.write(f"{out}: {what}, and are cut out again: {names}", file=sys.stderr)


def _fill(
    writer: CropWriter, jobs: list[Job], map_in_order: Mapper, report: Report, progress: bool
) -> None:
    """Prepare the jobs, in order, and commit whole sequences only, so that a rerun can skip what is
    there.
    """
    bar = tqdm(
        total=sum(len(job.frames) for job in jobs),
        unit="crop",
        desc="cropping",
        disable=not progress,
    )
    uncommitted = 0
    results = map_in_order(chunk for job in jobs for chunk in job.chunks())
    with bar:
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
) -> tuple[int, dict[int, str]]:
    """Store the results of one job's chunks; return the number of crops and what was wrong with
    others.
    """
    sequence: int | None = None
    made, faults = 0, dict[int, str]()
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


def _warn(job: Job, faults: dict[int, str], report: Report) -> None:
    if faults:
        first = next(iter(faults.values()))
        warning = f"{job.name}: left out {len(faults)} of {len(job.frames)}; first: {first}"
        report.warnings.append(warning)
        tqdm.write(f"warning: {warning}", file=sys.stderr)


def make_crops(job: Job) -> Result:
    """Cut out the targets of one job."""
    crops: list[Crop] = []
    faults: dict[int, str] = {}
    for frame, box, read in zip(job.frames, job.boxes, job.readers(), strict=True):
        try:
            image = read()
            height, width = image.shape[:2]
            if np.isnan(box).any():
                box = np.array([0.0, 0.0, width, height])
            check_box(box, width, height)
            crops.append(make_crop(image, box, frame))
        except (ValueError, OSError) as error:
            faults[frame] = f"{'frame' if job.kind == 'video' else 'box'} {frame}: {error}"
    return crops, faults


@contextmanager
def _mapper(workers: int) -> Iterator[Mapper]:
    """Give a function that maps `make_crops` over jobs, in order, with a bounded number of them
    under way.
    """
    if workers == 1:
        try:
            yield lambda jobs: map(make_crops, jobs)
        finally:
            _open_video.cache_clear()
        return
    # started at need, and spawned, not forked: the caller may have threads (torch, OpenCV), which
    # do not survive a fork
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=start_worker)
    try:
        yield lambda jobs: _map_bounded(pool, jobs, 2 * workers)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process died, perhaps for want of memory; rerun with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map_bounded(pool: ProcessPoolExecutor, jobs: Iterator[Job], limit: int) -> Iterator[Result]:
    under_way: deque[Future[Result]] = deque()
    for job in jobs:
        under_way.append(pool.submit(make_crops, job))
        if len(under_way) == limit:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
