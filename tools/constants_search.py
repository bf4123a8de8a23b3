"""The search behind `tools/tune.py`: an Optuna study in a journal, for one or several processes.

A trial's score is the mean over sequences of the average overlap. Trials are pruned by the mean
over the sequences done so far.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna import Study, Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState, create_trial
from tqdm import tqdm

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.metrics import overlaps
from rbsf.eval.runner import track_sequence
from rbsf.system.program import run
from rbsf.tracker import loading
from rbsf.tracker.anchor_free import AnchorFreeConfig, Network
from rbsf.tracker.loading import Constants
from rbsf.tracker.siamfc import CORRELATIONS, Backbone, TrackerConfig
from rbsf.tracker.states import REDETECT

SHARE = FloatDistribution(0.0, 1.0)
# Possible values of each constant. The ranges include the published and the shipped values.
OF_STATES: dict[str, BaseDistribution] = {
    "sure_score": FloatDistribution(0.0, 0.5),
    "lost_score": FloatDistribution(0.0, 0.3),
    "lost_frames": IntDistribution(1, 20),
    "faint_score": FloatDistribution(0.0, 0.2),
    "found_score": FloatDistribution(0.3, 0.9),
    "found_frames": IntDistribution(1, 10),
    "redetect": CategoricalDistribution(REDETECT),
}
RANGES: dict[type[Constants], dict[str, BaseDistribution]] = {
    TrackerConfig: {
        "scale_step": FloatDistribution(1.01, 1.1),
        "scale_penalty": FloatDistribution(0.9, 1.0),
        "window_influence": FloatDistribution(0.05, 0.5),
        "scale_rate": FloatDistribution(0.2, 0.9),
        "scales": IntDistribution(1, 5, step=2),
        "response_up": IntDistribution(4, 16, step=4),
        "memory_share": SHARE,
        "memory_rate": FloatDistribution(0.0, 0.2),
        "box_share": SHARE,
        "box_rate": SHARE,
        "follow_rate": FloatDistribution(0.0, 0.5),
        "correlation": CategoricalDistribution(CORRELATIONS),
        **OF_STATES,
    },
    AnchorFreeConfig: {
        "window_influence": FloatDistribution(0.05, 0.6),
        "change_penalty": FloatDistribution(0.0, 0.5),
        "size_rate": FloatDistribution(0.02, 0.9),
        "size_correction": SHARE,
        "middle_reach": FloatDistribution(0.0, 0.5),
        "steadiness": FloatDistribution(0.0, 0.2),
        "score_shift": FloatDistribution(0.0, 6.0),
        **OF_STATES,
    },
}
# The constants that are searched without --search.
SEARCHED: dict[type[Constants], tuple[str, ...]] = {
    TrackerConfig: ("scale_step", "scale_penalty", "window_influence", "scale_rate"),
    AnchorFreeConfig: ("window_influence", "change_penalty", "size_rate"),
}
DIGITS = 4  # decimal places of the constants that are tried
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # not RUNNING, which a killed process leaves


@dataclass(frozen=True)
class Search:
    """What a process needs to take part in a search."""

    weights: Path
    precision: str
    device: str
    threads: int | None
    engine: str
    sequences: list[Sequence]  # each has a frame that is scored
    log: Path  # the study's journal
    trials: int  # including those of earlier runs
    names: tuple[str, ...]  # the constants that are searched

    @cached_property
    def kind(self) -> type[Constants]:
        """The class of the constants."""
        return loading.constants_of(self.weights)

    @property
    def ranges(self) -> dict[str, BaseDistribution]:
        """Possible values of each searched constant."""
        return {name: RANGES[self.kind][name] for name in self.names}

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the searched constants."""
        return {name: getattr(self.kind(), name) for name in self.names}

    def load(self) -> Backbone | Network:
        """Load the network. Raises ValueError or FileNotFoundError if it cannot be used."""
        return loading.load_network(
            self.weights, self.device, self.precision, self.threads, self.engine
        )

    def weights_digest(self) -> str:
        """Digest of the weights file."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16]


def chosen_constants(weights: Path, given: list[str] | None) -> tuple[str, ...]:
    """The names of the constants to search, from --search.

    Raises ValueError for one that the tracker of these weights lacks.
    """
    kind = loading.constants_of(weights)
    known = RANGES[kind]
    if given == ["all"]:
        return tuple(known)
    for name in given or ():
        if name not in known:
            known_names = ", ".join(["all", *known])
            raise ValueError(
                f"--search {name}: {weights.name} has no such constant; give {known_names}"
            )
    return tuple(dict.fromkeys(given)) if given else SEARCHED[kind]


def sequence_scores(
    network: Backbone | Network,
    sequences: list[Sequence],
    constants: dict[str, Any],
    show: bool,
    kind: type[Constants],
) -> Iterator[float]:
    """Yield the average overlap in each sequence. With `show`, a terminal shows a bar."""
    config = kind(**constants)
    hidden = None if show else True  # None: the bar is hidden if there is no terminal
    for sequence in tqdm(
        sequences, desc="this trial", unit="sequence", leave=False, disable=hidden
    ):
        boxes = track_sequence(loading.make_tracker(network, config), sequence).boxes  # [N, 4]
        frames = sequence.annotated()[1:]  # the tracker is given the first box
        yield float(overlaps(boxes[frames], sequence.boxes[frames]).mean())


def running_means(scores: Iterable[float]) -> Iterator[float]:
    """Yield the mean of the first score, of the first two ..."""
    total = 0.0
    for count, score in enumerate(scores, 1):
        total += score
        yield total / count


def open_study(search: Search, seed: int) -> Study:
    """Open the study of `search.log`, or begin it.

    Raises ValueError if the file is damaged or not a study.
    """
    # The program itself prints one line on a failed trial.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # The first third of the sequences, the hardest (see score_defaults), shows little of a trial.
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=len(search.sequences) // 3)
    try:
        storage = JournalStorage(JournalFileBackend(str(search.log)))
        study = optuna.create_study(
            storage=storage,
            study_name="tune",
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    # Optuna has no exception of its own for a damaged file.
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        fault = "is damaged or no study of this program"
        raise ValueError(f"{search.log} {fault}; give another --out") from error
    # The seed of an earlier run would repeat its trials.
    study.sampler = optuna.samplers.TPESampler(seed=(seed + len(study.trials)) % 2**32)
    return study


def check_study(study: Study, search: Search) -> None:
    """Note in a new study what its scores depend on, other than the searched constants.

    Raises ValueError if an earlier study has noted something else.
    """
    boxes = b"".join(sequence.boxes.tobytes() for sequence in search.sequences)
    now = {
        "weights": search.weights_digest(),
        "precision": search.precision,
        "engine": search.engine,
        "sequences": [sequence.name for sequence in search.sequences],
        "frames": [len(sequence) for sequence in search.sequences],
        "boxes": hashlib.sha256(boxes).hexdigest()[:16],
        "ranges": {name: limits_of(each) for name, each in search.ranges.items()},
        "defaults": asdict(search.kind()),
    }
    if not study.trials:
        study.set_user_attr("origin", now)
    then = study.user_attrs.get("origin", {})
    changed = [key for key in now if now[key] != then.get(key)]
    if changed:
        fault = f"was made with other {', '.join(changed)}"
        raise ValueError(f"{search.log} {fault}; give another --out")


def limits_of(distribution: BaseDistribution) -> list[Any]:
    """The lowest and the highest value of a constant, or all choices of a categorical one."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]  # type: ignore[attr-defined]


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that count: complete ones and those that the pruner stopped."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def constants_of(trial: FrozenTrial, search: Search) -> dict[str, Any]:
    """Constants that a trial has tried."""
    return {name: rounded(trial.params[name]) for name in search.names}


def rounded(value: Any) -> Any:
    """Round a constant as it is tried; whole numbers and words stay unchanged."""
    return round(value, DIGITS) if isinstance(value, float) else value


def defaults_trial(study: Study) -> FrozenTrial | None:
    """The trial of the default constants; None before it is finished."""
    return next((trial for trial in finished(study) if "order" in trial.user_attrs), None)


def score_defaults(study: Study, search: Search, network: Backbone | Network) -> Search:
    """Try the default constants, unless done; return the search with the hardest sequences first.

    In that order running means rise. The pruner needs that, because it takes the highest mean so
    far as the value of a trial.
    """
    trial = defaults_trial(study)
    if trial is None:
        scores = list(
            sequence_scores(network, search.sequences, search.defaults, True, search.kind)
        )
        order = sorted(range(len(scores)), key=scores.__getitem__)
        means = list(running_means(scores[i] for i in order))
        trial = create_trial(
            params=search.defaults,
            distributions=search.ranges,
            value=means[-1],
            intermediate_values=dict(enumerate(means)),
            user_attrs={"order": order},
        )
        study.add_trial(trial)
    return replace(search, sequences=[search.sequences[i] for i in trial.user_attrs["order"]])


def suggest(trial: Trial, name: str, each: BaseDistribution) -> Any:
    """Choose a value of a constant to try."""
    if isinstance(each, CategoricalDistribution):
        return trial.suggest_categorical(name, each.choices)
    if isinstance(each, IntDistribution):
        return trial.suggest_int(name, each.low, each.high, step=each.step)
    assert isinstance(each, FloatDistribution)
    return rounded(trial.suggest_float(name, each.low, each.high))


def take_trials(
    study: Study,
    search: Search,
    network: Backbone | Network,
    *callbacks: Any,
    show: bool = False,
) -> None:
    """Try constants until the study has all its trials.

    Each of `callbacks` is called with the study and the trial after each trial.
    """

    def objective(trial: Trial) -> float:
        constants = {name: suggest(trial, name, each) for name, each in search.ranges.items()}
        scores = sequence_scores(network, search.sequences, constants, show, search.kind)
        mean = 0.0
        for step, mean in enumerate(running_means(scores)):
            trial.report(mean, step)
            if step + 1 < len(search.sequences) and trial.should_prune():
                raise optuna.TrialPruned
        return mean

    if len(finished(study)) < search.trials:
        enough = MaxTrialsCallback(search.trials, states=FINISHED)
        study.optimize(objective, callbacks=[enough, *callbacks])


def run_search(study: Study, search: Search, workers: int, seed: int) -> None:
    """Score the defaults, then take the other trials with `workers` processes, under a bar.

    This process is one of them. Raises ValueError, naming the file, if weights or frames cannot be
    read.
    """
    network = search.load()
    done = len(finished(study))
    with tqdm(total=search.trials, initial=done, unit="trial", desc="tuning") as bar:

        def progress(*_: object) -> None:
            bar.set_postfix_str(f"best {study.best_value:.4f}", refresh=False)
            bar.update(len(finished(study)) - bar.n)

        search = score_defaults(study, search, network)
        progress()
        left = search.trials - len(finished(study))
        with helpers(search, min(workers, left) - 1, seed):
            take_trials(study, search, network, progress, show=True)


@contextmanager
def helpers(search: Search, count: int, seed: int) -> Iterator[None]:
    """Let `count` more processes take trials; at the end, stop them and report those that died."""
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    seeds = [seed + 1000 * (i + 1) for i in range(count)]
    processes = [context.Process(target=help_search, args=(search, own)) for own in seeds]
    # The processes inherit this, so that Ctrl-C only reaches this process.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        for process in processes:
            if process.exitcode:
                fault = f"a worker died (exit code {process.exitcode})"
                print(f"{fault}; try fewer --workers", file=sys.stderr)
            process.terminate()
        for process in processes:
            process.join()


def help_search(search: Search, seed: int) -> None:
    """Take trials in a separate process, until the study has them all or the parent is gone."""
    # SIGTERM raises an exception, so that the journal's lock is released.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def stop_if_alone(study: Study, _: FrozenTrial) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            study.stop()

    def work() -> None:
        with suppress(KeyboardInterrupt):
            take_trials(open_study(search, seed), search, search.load(), stop_if_alone)

    run(work)
