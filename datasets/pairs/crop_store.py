"""A store of targets that `rbsf.datasets.pairs.prepare` has cut out: one SQLite file of JPEGs.

A crop is a square image of `CROP_SIZE` pixels, centred on a target at the exemplar's scale:
`exemplar_side` pixels of the image become 127. A search crop of 255 pixels fits inside, with 32
pixels to spare on each side for random shifts. A training then reads about 15 kB a crop instead of
a whole frame.

A store is written to `FILE.unfinished` and renamed to FILE when it is finished. A process that has
an older FILE open goes on reading the older one.

The tables are `meta` (format, settings, the `complete` flag, and which store this one `extends`),
`sequences`, `crops` (what is in each crop), `images` (their JPEGs, kept apart so that the rest
loads fast), `left_out` (frames that could not be used) and `origins` (what each sequence was cut
from). Stores made by early versions lack the last two. The crops of one sequence have consecutive
ids, by frame.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.images.decode import jpeg_size
from rbsf.datasets.pairs.provenance import Origin
from rbsf.datasets.video.images import decode
from rbsf.system.lock import locked
from rbsf.system.text import one_line
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, box_center, crop_square, exemplar_side

MARGIN = 32  # pixels around the search crop, for random shifts and scales
CROP_SIZE = SEARCH_SIZE + 2 * MARGIN
CROP_CENTER = (CROP_SIZE - 1) / 2  # x and y of the target's centre, in pixels
JPEG_QUALITY = 92
FORMAT = {"format": "rbsf-crops", "version": "1", "crop_size": str(CROP_SIZE)}
PROGRAM = re.compile(r"\b(VIRTUAL|AS|CHECK|DEFAULT|REFERENCES|COLLATE)\b", re.IGNORECASE)
KINDS = ("video", "still")  # frames of one moving target; targets of one single image

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
_SEQUENCE_KEY = "source TEXT NOT NULL, name TEXT NOT NULL"
_LATER_TABLES = f"""
CREATE TABLE IF NOT EXISTS left_out (
    {_SEQUENCE_KEY}, frame INTEGER NOT NULL, PRIMARY KEY (source, name, frame)
);
CREATE TABLE IF NOT EXISTS origins (
    {_SEQUENCE_KEY}, state TEXT NOT NULL, place TEXT NOT NULL, boxes TEXT NOT NULL,
    PRIMARY KEY (source, name)
)
"""
_ADD_SEQUENCE = "INSERT INTO sequences (source, name, kind) VALUES (?, ?, ?)"
_ADD_CROP = "INSERT INTO crops (sequence, frame, width, height) VALUES (?, ?, ?, ?)"
_ADD_IMAGE = "INSERT INTO images VALUES (?, ?)"
_ADD_ORIGIN = "INSERT OR REPLACE INTO origins VALUES (?, ?, ?, ?, ?)"
_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_SEQUENCES = "SELECT id, name, kind, source FROM sequences ORDER BY id"
_CROPS = "SELECT id, sequence, frame, width, height FROM crops ORDER BY id"
_FIND_SEQUENCE = "SELECT id FROM sequences WHERE source = ? AND name = ?"
_DELETE_SEQUENCE = (  # in this order, because images are found through crops
    "DELETE FROM images WHERE id IN (SELECT id FROM crops WHERE sequence = ?)",
    "DELETE FROM crops WHERE sequence = ?",
    "DELETE FROM sequences WHERE id = ?",
)


@dataclass(frozen=True)
class Crop:
    """One target, cut out."""

    frame: int  # number, from 0
    size: tuple[float, float]  # w, h of the target, in pixels of the crop
    jpeg: bytes


def make_crop(image: np.ndarray, box: Sequence[float] | np.ndarray, frame: int) -> Crop:
    """Cut the target at `box` (`x, y, w, h`, pixels) out of an image, `[H, W, 3]` uint8 RGB."""
    scale = EXEMPLAR_SIZE / exemplar_side(box[2:])  # pixels of the crop per pixel of the image
    pixels = crop_square(image, box_center(box), CROP_SIZE / scale, CROP_SIZE)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    size = (float(box[2]) * scale, float(box[3]) * scale)
    return Crop(frame, size, data.tobytes())


@dataclass(frozen=True)
class Contents:
    """What a store holds, and what was left out of it.

    `stored`: the `(source, name)` of each sequence. `left_out`: the frames that could not be used,
    by `(source, name)`. It has an entry for every sequence that is stored or has no usable frame.
    `origins`: the known origins, by `(source, name)`.
    """

    stored: frozenset[tuple[str, str]]
    crops: int  # number of crops
    left_out: dict[tuple[str, str], list[int]]
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)


def finished_contents(path: Path, settings: dict[str, str]) -> Contents | None:
    """Read the contents of a store without a lock.

    Returns None unless the store is finished and was made with these settings.
    """
    try:
        _check_there(path)
        with _reading(path), closing(_connect_read_only(path)) as db:
            meta = _check_meta(db, path)
            return _contents(db) if meta == {**meta, **settings, "complete": "1"} else None
    except (ValueError, FileNotFoundError):
        return None  # the writer that opens it next repairs it or reports the fault


class CropStore:
    """A finished store, read only. It can be pickled and forked: each process opens the file.

    Attributes, for S sequences and N crops: `names` and `kinds` are S strings each. `origins` has S
    items: an `Origin`, or None if it is not known. `starts` `[S + 1]` int64: sequence `s` has the
    crops `starts[s]` to `starts[s + 1] - 1`. `frames` `[N]` int64: each crop's frame in its
    sequence (of a still: the number of its box), ascending. `sizes` `[N, 2]` float32: the target's
    w, h in pixels of the crop.

    If another store replaces the file, a process that has already opened this one goes on reading
    it, and a process that opens it later gets a ValueError. Raises FileNotFoundError for a missing
    file, and ValueError for one that is foreign, unfinished or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._opened: tuple[int, sqlite3.Connection] | None = None  # process id, connection
        _check_there(self.path)
        self._identity = _identity(self.path)
        with _reading(self.path):
            db = self._connection()
            if _check_meta(db, self.path).get("complete") != "1":
                raise _unfinished_error(self.path)
            sequences = db.execute(_SEQUENCES).fetchall()
            origins = _origins(db)
            crops = db.execute(_CROPS).fetchall()
        table = self._as_table(sequences, crops)
        self.names = tuple(str(name) for _, name, _, _ in sequences)
        self.kinds = tuple(str(kind) for _, _, kind, _ in sequences)
        self.origins = tuple(origins.get((source, name)) for _, name, _, source in sequences)
        firsts = np.searchsorted(table[:, 1], [number for number, *_ in sequences])
        self.starts = np.append(firsts, len(table))
        self._ids = table[:, 0].astype(np.int64)
        self.frames = table[:, 2].astype(np.int64)
        self.sizes = table[:, 3:].astype(np.float32)

    def _as_table(self, sequences: list[tuple], crops: list[tuple]) -> np.ndarray:
        """The crops by their sequences: `[N, 5]` float64 with columns as in _CROPS."""
        try:
            table = np.array(crops, dtype=np.float64).reshape(-1, 5)
        except (ValueError, TypeError, OverflowError):
            table = np.full((1, 5), np.nan)
        of_sequences = np.isin(table[:, 1], [number for number, *_ in sequences]).all()
        in_order = (np.diff(table[:, 1]) >= 0).all()
        if not (
            np.isfinite(table).all() and (table[:, 3:] > 0).all() and of_sequences and in_order
        ):
            fault = "its table of crops is damaged"
            raise ValueError(f"{self.path}: {fault}; delete the file and prepare it again")
        return table

    def __len__(self) -> int:
        return len(self._ids)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def jpeg(self, index: int) -> bytes:
        """The JPEG of a crop. Raises ValueError if it is missing, or if the file was changed."""
        query = "SELECT jpeg FROM images WHERE id = ?"
        with _reading(self.path):
            row = self._connection().execute(query, (int(self._ids[index]),)).fetchone()
        self._check_unchanged()
        if row is None:
            advice = "delete the file and prepare it again"
            raise ValueError(f"{self.path}: crop {index} has no image; {advice}")
        return bytes(row[0])

    def read(self, index: int) -> np.ndarray:
        """One crop, `[319, 319, 3]` uint8 RGB.

        The target's centre is at the pixel `(CROP_CENTER, CROP_CENTER)`. Raises ValueError for a
        crop that is missing or damaged.
        """
        data = self.jpeg(index)
        image = None
        if jpeg_size(data) in (None, (CROP_SIZE, CROP_SIZE)):  # None: no JPEG, but another format
            with suppress(ValueError):
                image = decode(np.frombuffer(data, np.uint8), self.path)
        if image is None or image.shape != (CROP_SIZE, CROP_SIZE, 3):
            advice = "delete the file and prepare it again"
            raise ValueError(f"{self.path}: crop {index} is damaged; {advice}")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _connection(self) -> sqlite3.Connection:
        # A connection must not cross a fork.
        if self._opened is None or self._opened[0] != os.getpid():
            _check_there(self.path)
            opened = _connect_read_only(self.path)
            # Checked after opening: if the file is the same now, it was the same when opened.
            if _identity(self.path) != self._identity:
                raise self._changed("another store took its place")
            self._opened = (os.getpid(), opened)
        return self._opened[1]

    def _check_unchanged(self) -> None:
        """Raise ValueError if another process wrote into the open file."""
        now = _identity(self.path)
        if now != self._identity and now and self._identity and now[0] == self._identity[0]:
            raise self._changed("it was written to")

    def _changed(self, how: str) -> ValueError:
        return ValueError(f"{self.path}: {how} while it was being read; start the program again")


class CropWriter:
    """Makes a store, or continues one.

    Use it as a context manager: add whole sequences, `commit` now and then, and `finish` at last.
    What was committed is kept in `FILE.unfinished`, and a later writer continues it, unless FILE
    has been replaced since. `settings` (name to value) say how crops were chosen; a store cannot be
    continued with other settings. Raises ValueError for a foreign file, for other settings, and
    while another process makes the store, and OSError if the file cannot be written.

    Attributes: `resumed`: whether it continues a store that another writer left unfinished.
    """

    def __init__(self, path: str | Path, settings: dict[str, str] | None = None) -> None:
        self.path = Path(path)
        self.settings = settings or {}
        self.resumed = False
        self._part = _unfinished(self.path)

    def __enter__(self) -> CropWriter:
        with ExitStack() as opened:
            opened.enter_context(locked(self.path))
            with _writing(self.path):
                if self.path.exists():
                    with closing(sqlite3.connect(self.path)) as finished:
                        self._check_settings(finished, self.path, "name another file")
                self._db = self._connect()
                opened.callback(lambda: self._db.close())  # rolls back what is not committed
                self._open()
                self._check_settings(self._db, self._part, "delete this file, to begin anew")
                self._add_later_tables()
            self._held = opened.pop_all()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error and issubclass(error, KeyboardInterrupt):
            self._db.rollback()
            kept = len(self.contents().stored)
            print(f"{self.path}: {kept} sequences are kept; the same command goes on")
        self._held.close()

    def contents(self) -> Contents:
        """What is in the store now."""
        return _contents(self._db)

    def add_sequence(self, source: str, name: str, kind: str) -> int:
        """Begin a sequence of one of `KINDS`; it replaces one of the same `(source, name)`.

        Returns its id, for `add_crops`. Raises ValueError for another kind.
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
                self._db.execute(_ADD_IMAGE, (row, crop.jpeg))

    def remove(self, source: str, name: str) -> None:
        """Take a sequence out, if it is there."""
        with _writing(self.path):
            self._begin()
            old = self._db.execute(_FIND_SEQUENCE, (source, name)).fetchone()
            if old is not None:
                for statement in _DELETE_SEQUENCE:
                    self._db.execute(statement, old)

    def note_origin(self, source: str, name: str, origin: Origin) -> None:
        """Note what a sequence was cut from; this replaces an earlier note."""
        with _writing(self.path):
            self._begin()
            self._db.execute(_ADD_ORIGIN, (source, name, *origin))

    def leave_out(self, source: str, name: str, frames: Iterable[int]) -> None:
        """Note which frames of a sequence could not be used; this replaces an earlier note."""
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
        """Commit, mark the store as complete and rename it, so that `CropStore` can read it."""
        self.commit()
        with _writing(self.path):
            self._db.execute(_SET_META, ("complete", "1"))
            self._db.close()
            os.replace(self._part, self.path)

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")

    def _open(self) -> None:
        """Open the unfinished store, or begin one with a copy of the finished one."""
        extended = _identity(self.path)
        self.resumed = _extended(self._db) == str(extended)
        if not self.resumed:
            self._db.close()
            for path in (self._part, self._part.with_name(self._part.name + "-journal")):
                path.unlink(missing_ok=True)
            self._db = self._connect()
            self._copy() if extended else self._create()
            self._db.execute(_SET_META, ("complete", "0"))
            self._db.execute(_SET_META, ("extends", str(extended)))  # last: makes it resumable

    def _connect(self) -> sqlite3.Connection:
        # isolation_level None: the library leaves `BEGIN` and `COMMIT` to this class.
        db = sqlite3.connect(self._part, timeout=1, isolation_level=None)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        return db

    def _copy(self) -> None:
        with closing(sqlite3.connect(self.path)) as finished:
            finished.backup(self._db)

    def _create(self) -> None:
        for statement in _TABLES.split(";"):
            self._db.execute(statement)
        self._db.executemany(_SET_META, {**FORMAT, **self.settings}.items())

    def _check_settings(self, db: sqlite3.Connection, path: Path, otherwise: str) -> None:
        meta = _check_meta(db, path)
        for key, value in self.settings.items():
            if meta.get(key) != value:
                made = f"{path}: made with {key} {meta.get(key)}, not {value}"
                raise ValueError(f"{made}; keep to that or {otherwise}")

    def _add_later_tables(self) -> None:
        for statement in _LATER_TABLES.split(";"):
            self._db.execute(statement)


def _contents(db: sqlite3.Connection) -> Contents:
    stored = db.execute("SELECT source, name FROM sequences").fetchall()
    left_out: dict[tuple[str, str], list[int]] = {key: [] for key in stored}
    if _has_table(db, "left_out"):
        frames = db.execute("SELECT source, name, frame FROM left_out ORDER BY frame")
        for source, name, frame in frames:
            left_out.setdefault((source, name), []).append(frame)
    crops = db.execute("SELECT count(*) FROM crops").fetchone()[0]
    return Contents(frozenset(stored), crops, left_out, _origins(db))


def _origins(db: sqlite3.Connection) -> dict[tuple[str, str], Origin]:
    if not _has_table(db, "origins"):
        return {}
    rows = db.execute("SELECT source, name, state, place, boxes FROM origins")
    return {(source, name): Origin(*origin) for source, name, *origin in rows}


def _has_table(db: sqlite3.Connection, name: str) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    return bool(db.execute(query, (name,)).fetchone()[0])


def _check_meta(db: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Read the table `meta`. Raises ValueError unless it is that of a store of this format."""
    _refuse_programs(db, path)
    try:
        meta = dict(db.execute("SELECT key, value FROM meta"))
    except sqlite3.OperationalError as error:
        fault = f"a database, but not a crop store ({one_line(error)})"
        raise ValueError(f"{path}: {fault}; name another file") from error
    for key, value in FORMAT.items():
        if meta.get(key) != value:
            found = f"crop store with {key} {meta.get(key)!r}, not {value!r}"
            raise ValueError(f"{path}: {found}; prepare it again")
    return meta


def _refuse_programs(db: sqlite3.Connection, path: Path) -> None:
    """Raise ValueError for a database that runs code when it is read, which may never end.

    Views, triggers, virtual tables, indexes of expressions and computed columns run code. A store
    has only tables of plain columns, and the indexes that SQLite makes for their keys.
    """
    things = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    for kind, name, text in things:
        plain = text is None or (kind == "table" and not PROGRAM.search(str(text)))
        if not plain:
            fault = f"a database, but not a crop store (it has the {kind} {str(name)[:40]!r})"
            raise ValueError(f"{path}: {fault}; name another file")


def _connect_read_only(path: Path) -> sqlite3.Connection:
    # "immutable" means no locks and no journal, so many processes can read at once, even from
    # read-only folders.
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(address, uri=True, check_same_thread=False)


def _unfinished(path: Path) -> Path:
    """The path of a store while it is being made."""
    return path.with_name(path.name + ".unfinished")


def _unfinished_error(path: Path) -> ValueError:
    return ValueError(f"{path}: unfinished crop store; rerun the command that was making it")


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of a file: they tell if it was replaced or changed. None: no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _extended(db: sqlite3.Connection) -> str | None:
    """The store that an unfinished one extends; None if that was not noted, or it is no store."""
    try:
        found = db.execute("SELECT value FROM meta WHERE key = 'extends'").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return None
    return found[0] if found else None


def _check_there(path: Path) -> None:
    """Raise FileNotFoundError if there is no store, and ValueError if it is still being made."""
    if path.is_file():
        return
    if _unfinished(path).is_file():
        raise _unfinished_error(path)
    advice = f"make it with rbsf prepare-pairs --out {path}"
    raise FileNotFoundError(f"{path}: no such crop store; {advice}")


# SQLite quotes damaged names in its errors. Where Python cannot decode one, it raises
# UnicodeDecodeError.


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        fault = f"not a crop store ({one_line(error)})"
        raise ValueError(f"{path}: {fault}; make one with rbsf prepare-pairs") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:  # disk full, read-only folder, another writer
        raise OSError(f"{path}: cannot write the crop store ({one_line(error)})") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        fault = f"not a crop store ({one_line(error)})"
        raise ValueError(f"{path}: {fault}; name another file") from error
