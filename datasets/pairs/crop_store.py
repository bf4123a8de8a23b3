"""A store of targets cut out beforehand: one SQLite file of JPEGs, made by
`rbsf.datasets.pairs.prepare`.

A crop is a CROP_SIZE x CROP_SIZE image centred on a target at the exemplar's scale (`exemplar_side`
image pixels become 127), so a 255-pixel search crop fits inside with 32 pixels to spare on each
side for random shifts. Training then reads about 15 kB a crop instead of a whole frame.

Tables: `meta` (format, settings, the `complete` flag), `sequences`, `crops` (what is in each crop),
`images` (their JPEGs, kept apart so that the rest loads fast), `left_out` (frames that could not be
used) and `origins` (what each sequence was cut from); stores made by early versions lack the last
two. The crops of one sequence have consecutive ids, by frame.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.pairs.provenance import Origin
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, box_center, crop_square, exemplar_side

MARGIN = 32  # pixels around the search crop, for random shifts and scales
CROP_SIZE = SEARCH_SIZE + 2 * MARGIN
CROP_CENTER = (CROP_SIZE - 1) / 2  # pixel coordinate of the target's centre, x and y
JPEG_QUALITY = 92
FORMAT = {"format": "rbsf-crops", "version": "1", "crop_size": str(CROP_SIZE)}
KINDS = ("video", "still")  # frames of one moving target | targets of one single image

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sequences (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    UNIQUE (source, name)
);
CREATE TABLE crops (
    id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, frame INTEGER NOT NULL,
    width REAL NOT NULL, height REAL NOT NULL
);
CREATE TABLE images (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
"""
_LATER_TABLES = """
CREATE TABLE IF NOT EXISTS left_out (
    source TEXT NOT NULL, name TEXT NOT NULL, frame INTEGER NOT NULL, PRIMARY KEY (source, name, frame)
);
CREATE TABLE IF NOT EXISTS origins (
    source TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, place TEXT NOT NULL, boxes TEXT NOT NULL,
    PRIMARY KEY (source, name)
)
"""
_ADD_SEQUENCE = "INSERT INTO sequences (source, name, kind) VALUES (?, ?, ?)"
_ADD_CROP = "INSERT INTO crops (sequence, frame, width, height) VALUES (?, ?, ?, ?)"
_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


@dataclass(frozen=True)
class Crop:
    """One target, cut out: frame number (0-based), `(w, h)` in pixels of the crop, bytes of the
    JPEG.
    """

    frame: int
    size: tuple[float, float]
    jpeg: bytes


def make_crop(image: np.ndarray, box: Sequence[float] | np.ndarray, frame: int) -> Crop:
    """Cut the target at `box` (`x, y, w, h`, pixels) out of an H x W x 3 uint8 RGB image."""
    scale = EXEMPLAR_SIZE / exemplar_side(box[2:])  # crop pixels per image pixel
    pixels = crop_square(image, box_center(box), CROP_SIZE / scale, CROP_SIZE)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Crop(frame, (float(box[2]) * scale, float(box[3]) * scale), data.tobytes())


@dataclass(frozen=True)
class Contents:
    """What a store holds: numbers of sequences and of crops, and what was left out.

    `left_out`: by `(source, name)`, the frames that could not be used, of every sequence that
    was stored or of which no frame could be used. `origins`: by `(source, name)`, as far as
    they are known.
    """

    sequences: int
    crops: int
    left_out: dict[tuple[str, str], list[int]]
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)


def finished_contents(path: Path, settings: dict[str, str]) -> Contents | None:
    """What a store holds, read without a lock; None unless it is finished and made with these
    settings.
    """
    try:
        with _reading(path), closing(_connect_read_only(path)) as db:
            meta = _check_meta(db, path)
            return _contents(db) if meta == {**meta, **settings, "complete": "1"} else None
    except (ValueError, FileNotFoundError):
        return None  # a writer mends it, or says what is wrong


class CropStore:
    """A finished store, read only. Pickles and forks freely: each process opens the file itself, at
    need.

    Attributes, for S sequences and N crops: `names`, `kinds`: S strings each. `origins`: S,
    each an `Origin`, or None where it is not known. `starts` (S + 1) int64: sequence `s` has
    crops `starts[s]` to `starts[s + 1] - 1`. `frames` (N) int64: each crop's frame in its
    sequence (of a still: the number of its box), ascending. `sizes` (N, 2) float32: the target's
    w, h in pixels of the crop.

    Nothing may be added to the file while it is being read. Raises FileNotFoundError for a missing
    file, ValueError for one that is foreign, unfinished or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._opened: tuple[int, sqlite3.Connection] | None = None  # process id, connection
        with _reading(self.path), closing(_connect_read_only(self.path)) as db:
            if _check_meta(db, self.path).get("complete") != "1":
                raise ValueError(
                    f"{self.path}: unfinished crop store; rerun the command that was making it"
                )
            sequences = db.execute(
                "SELECT id, name, kind, source FROM sequences ORDER BY id"
            ).fetchall()
            origins = _origins(db)
            crops = db.execute(
                "SELECT id, sequence, frame, width, height FROM crops ORDER BY id"
            ).fetchall()
        table = np.array(crops, dtype=np.float64).reshape(-1, 5)
        self.names = tuple(str(name) for _, name, _, _ in sequences)
        self.kinds = tuple(str(kind) for _, _, kind, _ in sequences)
        self.origins = tuple(origins.get((source, name)) for _, name, _, source in sequences)
        self.starts = np.append(
            np.searchsorted(table[:, 1], [row[0] for row in sequences]), len(table)
        )
        self._ids = table[:, 0].astype(np.int64)
        self.frames = table[:, 2].astype(np.int64)
        self.sizes = table[:, 3:].astype(np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def jpeg(self, index: int) -> bytes:
        """The JPEG of one crop."""
        with _reading(self.path):
            query = "SELECT jpeg FROM images WHERE id = ?"
            row = self._connection().execute(query, (int(self._ids[index]),)).fetchone()
        if row is None:
            raise ValueError(
                f"{self.path}: crop {index} has no image; delete the file and prepare it again"
            )
        return bytes(row[0])

    def read(self, index: int) -> np.ndarray:
        """One crop, 319 x 319 x 3 uint8 RGB, the target's centre at pixel (CROP_CENTER,
        CROP_CENTER).
        """
        image = cv2.imdecode(np.frombuffer(self.jpeg(index), np.uint8), cv2.IMREAD_COLOR)
        if image is None or image.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(
                f"{self.path}: crop {index} is damaged; delete the file and prepare it again"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _connection(self) -> sqlite3.Connection:
        if (
            self._opened is None or self._opened[0] != os.getpid()
        ):  # a connection must not cross a fork
            self._opened = (os.getpid(), _connect_read_only(self.path))
        return self._opened[1]


class CropWriter:
    """Makes a store, or goes on with one. A context manager: add whole sequences, `commit`, at last
    `finish`.

    `settings` (name -> value) say how crops were chosen: a store is not continued with others.
    What was not committed when the program stopped is left out. Raises ValueError for a foreign
    file or other settings, OSError where the file cannot be written or another process is writing
    it.
    """

    def __init__(self, path: str | Path, settings: dict[str, str] | None = None) -> None:
        self.path = Path(path)
        self.settings = settings or {}

    def __enter__(self) -> CropWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(self.path):
            self._db = sqlite3.connect(
                self.path, timeout=1, isolation_level=None
            )  # we say BEGIN and COMMIT
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()  # rolls back what is not committed

    def contents(self) -> Contents:
        """What is in the store now."""
        return _contents(self._db)

    def add_sequence(self, source: str, name: str, kind: str) -> int:
        """Begin a sequence of one of KINDS, in place of one of the same `(source, name)`.

        Returns its id, for `add_crops`.
        """
        if kind not in KINDS:
            raise ValueError(f"sequence {name}: kind {kind!r} is not one of {', '.join(KINDS)}")
        with _writing(self.path):
            self.remove(source, name)
            return int(self._db.execute(_ADD_SEQUENCE, (source, name, kind)).lastrowid or 0)

    def add_crops(self, sequence: int, crops: Iterable[Crop]) -> None:
        """Append crops, by ascending frame, to the sequence begun last."""
        with _writing(self.path):
            for crop in crops:
                row = self._db.execute(_ADD_CROP, (sequence, crop.frame, *crop.size)).lastrowid
                self._db.execute("INSERT INTO images VALUES (?, ?)", (row, crop.jpeg))

    def remove(self, source: str, name: str) -> None:
        """Take a sequence out, if it is there."""
        with _writing(self.path):
            self._begin()
            old = self._db.execute(
                "SELECT id FROM sequences WHERE source = ? AND name = ?", (source, name)
            ).fetchone()
            if old is not None:
                self._db.execute(
                    "DELETE FROM images WHERE id IN (SELECT id FROM crops WHERE sequence = ?)", old
                )
                self._db.execute("DELETE FROM crops WHERE sequence = ?", old)
                self._db.execute("DELETE FROM sequences WHERE id = ?", old)

    def note_origin(self, source: str, name: str, origin: Origin) -> None:
        """Note what a sequence was cut from, in place of what was noted before."""
        with _writing(self.path):
            self._begin()
            self._db.execute(
                "INSERT OR REPLACE INTO origins VALUES (?, ?, ?, ?, ?)", (source, name, *origin)
            )

    def leave_out(self, source: str, name: str, frames: Iterable[int]) -> None:
        """Note which frames of a sequence could not be used, in place of what was noted before."""
        with _writing(self.path):
            self._begin()
            self._db.execute("DELETE FROM left_out WHERE source = ? AND name = ?", (source, name))
            rows = ((source, name, frame) for frame in frames)
            self._db.executemany("INSERT INTO left_out VALUES (?, ?, ?)", rows)

    def commit(self) -> None:
        """Keep what was added since the last commit."""
        if self._db.in_transaction:
            with _writing(self.path):
                self._db.execute("COMMIT")

    def finish(self) -> None:
        """Commit and mark the store complete: from now on CropStore reads it."""
        self.commit()
        with _writing(self.path):
            self._db.execute(_SET_META, ("complete", "1"))

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute(_SET_META, ("complete", "0"))  # on disk before anything is added
            self._db.execute("BEGIN")

    def _open(self) -> None:
        self._db.execute(
            "PRAGMA locking_mode = EXCLUSIVE"
        )  # a second writer fails and does not mix in
        self._db.execute("BEGIN EXCLUSIVE")
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.executemany(_SET_META, {**FORMAT, **self.settings, "complete": "0"}.items())
        self._db.execute("COMMIT")
        meta = _check_meta(self._db, self.path)
        for key, value in self.settings.items():
            if meta.get(key) != value:
                made = f"{self.path}: made with {key} {meta.get(key)}, not {value}"
                raise ValueError(f"{made}; keep to that or name another file")
        for statement in _LATER_TABLES.split(";"):
            self._db.execute(statement)


def _contents(db: sqlite3.Connection) -> Contents:
    left_out: dict[tuple[str, str], list[int]] = {
        key: [] for key in db.execute("SELECT source, name FROM sequences")
    }
    sequences = len(left_out)
    if _has_table(db, "left_out"):
        for source, name, frame in db.execute(
            "SELECT source, name, frame FROM left_out ORDER BY frame"
        ):
            left_out.setdefault((source, name), []).append(frame)
    return Contents(
        sequences, db.execute("SELECT count(*) FROM crops").fetchone()[0], left_out, _origins(db)
    )


def _origins(db: sqlite3.Connection) -> dict[tuple[str, str], Origin]:
    rows = (
        db.execute("SELECT source, name, state, place, boxes FROM origins")
        if _has_table(db, "origins")
        else ()
    )
    return {(source, name): Origin(*origin) for source, name, *origin in rows}


def _has_table(db: sqlite3.Connection, name: str) -> bool:
    return bool(
        db.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
    )


def _check_meta(db: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Return the table `meta` as a dict; ValueError if it is not that of a store which this code
    reads.
    """
    try:
        meta = dict(db.execute("SELECT key, value FROM meta"))
    except sqlite3.OperationalError as error:
        raise ValueError(
            f"{path}: a database, but not a crop store ({error}); name another file"
        ) from error
    for key, value in FORMAT.items():
        if meta.get(key) != value:
            raise ValueError(
                f"{path}: crop store with {key} {meta.get(key)!r}, not {value!r}; prepare it again"
            )
    return meta


def _connect_read_only(path: Path) -> sqlite3.Connection:
    # immutable: neither locks nor journal, so that many processes read at once, from read-only
    # folders too
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such crop store; make it with tools/prepare_pairs.py --out {path}"
        )
    try:
        yield
    except sqlite3.Error as error:
        raise ValueError(
            f"{path}: not a crop store ({error}); make one with tools/prepare_pairs.py"
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:  # disk full, read-only folder, another writer
        raise OSError(f"{path}: cannot write the crop store ({error})") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path}: not a crop store ({error}); name another file") from error
