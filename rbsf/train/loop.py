"""The training loop: epochs of Algorithm 1 with progress, logs, checkpoints and a clean stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rbsf.maps import CALIBRATION
from rbsf.system.stop import StopRequest
from rbsf.system.text import one_line
from rbsf.train import CHECKPOINT, distributed
from rbsf.train.capture import CapturedSteps
from rbsf.train.checkpoint import check_parts, save_checkpoint
from rbsf.train.forecast import END, NORM_STEP, STEP, Forecast, Work
from rbsf.train.log import History
from rbsf.train.rectify import Rectifier
from rbsf.train.run_config import RunConfig


class Stopped(Exception):
    """The signal `signum` stopped training, which saved its state at `path`."""

    def __init__(self, signum: int, path: Path) -> None:
        name = signal.Signals(signum).name
        advice = "repeat the command, a single training with --resume"
        super().__init__(f"stopped by {name}; saved {path}; {advice}")
        self.signum = signum


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """The factor for all learning rates at `step` of `steps`.

    It rises linearly over `warmup` steps, and then follows a cosine from 1 to 0.01.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    length = max(1, steps - warmup)
    cosine = math.cos(math.pi * (step - warmup) / length)
    return 0.01 + 0.99 * (1 + cosine) / 2


class Loop:
    """Trains with a Rectifier.

    `batches(epoch, start, stop)` yields the batches `start` to `stop` of an epoch. An epoch is
    `train_steps` steps and then `norm_steps` of the batch-norm pass. `validate` gets the student
    after each epoch and returns figures to log. `yardsticks` are the same figures for other
    networks, by name, which are printed for comparison. `forecast` estimates times. Process 0
    writes to `folder`.
    """

    def __init__(
        self,
        rectifier: Rectifier,
        batches: Callable[[int, int, int], Iterable[dict[str, Tensor]]],
        config: RunConfig,
        folder: Path,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        rank: int = 0,
        world: int = 1,
        yardsticks: dict[str, dict[str, float]] | None = None,
        forecast: Forecast | None = None,
    ) -> None:
        self.rectifier, self.batches, self.validate = rectifier, batches, validate
        self.yardsticks, self.forecast = yardsticks or {}, forecast or Forecast()
        self.config, self.folder = config.loop, folder
        self.unit, self.sampling = config.UNIT, config.sampling
        self.rank, self.world = rank, world
        self.train_steps, self.norm_steps = config.steps(world)
        self.epoch = self.index = 0  # the next epoch, and the next batch in it
        self.device = next(rectifier.student.parameters()).device
        captured = config.loop.capture and self.device.type == "cuda" and world == 1
        self.steps = CapturedSteps(rectifier) if captured else rectifier
        self.checkpoint = folder / CHECKPOINT
        self.sums: dict[str, list[Tensor]] = {}  # values since the last row of the log
        self.saved = False  # whether there is a checkpoint
        self.warm = False  # whether a step was done; the first one is slower and is not timed

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch, including those of the batch-norm pass."""
        return self.train_steps + self.norm_steps

    def work_left(self) -> Work:
        """The remaining work; it includes ends of epochs if there is a validation."""
        epochs = self.config.epochs - self.epoch
        trained = min(self.index, self.train_steps)
        work = {
            STEP: epochs * self.train_steps - trained,
            NORM_STEP: epochs * self.norm_steps - (self.index - trained),
        }
        return work | {END: epochs} if self.validate else work

    @property
    def step(self) -> int:
        """Steps done, including those of the batch-norm passes."""
        return self.epoch * self.epoch_steps + self.index

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's `state`.

        Raises ValueError if it belongs to another network or another order of the data.
        """
        check_parts(state, self.checkpoint)
        for name, value in self._order().items():
            was = state["order"].get(name)
            if was != value:
                raise ValueError(
                    f"{self.checkpoint}: trained with {name} {was}, not {value}; resume with {was}"
                )
        try:
            self.rectifier.load_state_dict(state["training"])
            torch.set_rng_state(state["random"])  # stochastic methods draw from it
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = one_line(error, 160)
            raise ValueError(
                f"{self.checkpoint}: does not fit this network and configuration ({reason})"
            ) from None
        self.epoch, self.index = state["epoch"], state["index"]
        begun = self.epoch + (self.index > 0)  # epochs
        if begun > self.config.epochs:
            raise ValueError(
                f"{self.checkpoint}: epoch {begun} has begun, so epochs cannot be"
                f" {self.config.epochs}; resume with {begun} or more"
            )
        self.saved = True

    def _order(self) -> dict[str, int]:
        """The values that decide which samples a step sees; a resumed run must have the same."""
        return {**self.sampling, "processes": self.world, "norm_steps": self.norm_steps}

    def save(self) -> None:
        """Write the checkpoint (process 0).

        If weights are not finite, raises ValueError and keeps the previous checkpoint.
        """
        distributed.average_buffers([self.rectifier.student])
        tensors = (*self.rectifier.student.parameters(), *self.rectifier.student.buffers())
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise ValueError(self._not_finite("weights"))
        if self.rank == 0:
            position = {"epoch": self.epoch, "index": self.index, "order": self._order()}
            state = {"training": self.rectifier.state_dict(), "random": torch.get_rng_state()}
            save_checkpoint(self.checkpoint, {**position, **state})
            self.history.write()
        self.saved = True

    def run(self) -> None:
        """Train to the end.

        Raises Stopped after Ctrl-C or SIGTERM, and ValueError if a loss is no longer finite.
        """
        if self.rank == 0:
            self.history = History(self.folder, self.step)
        distributed.share_weights(self.rectifier.modules().values())
        bar = self._progress_bar()
        try:
            with StopRequest() as stop, bar:
                if self._was_killed_in_validation():
                    self._end_epoch(bar, stop)
                while self.epoch < self.config.epochs:
                    self._train_epoch(bar, stop)
        except BaseException:
            with suppress(OSError):  # on a full disk the first error already names the file
                self._write_history()
            raise
        self._write_history()

    def _write_history(self) -> None:
        if self.rank == 0:
            self.history.write(final=True)

    def _progress_bar(self) -> tqdm:
        samples_a_step = self.config.batch_size * self.world
        return tqdm(
            total=self.config.epochs * self.epoch_steps * samples_a_step,
            initial=self.step * samples_a_step,
            unit=self.unit,
            disable=self.rank > 0,
            smoothing=0.05,
            mininterval=1,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
            " [{elapsed}, {rate_fmt}{postfix}]",
        )

    def _train_epoch(self, bar: tqdm, stop: StopRequest) -> None:
        """Run the rest of an epoch, save a checkpoint and validate."""
        self._describe(bar)
        try:
            self._run_steps(bar, stop)
        except RuntimeError:
            # Ctrl-C also reaches the loader's processes. It may end one that cannot ignore it yet.
            if not stop.signum:
                raise
            self._stop_if_asked(bar, stop)
        self.epoch, self.index = self.epoch + 1, 0
        self._flush(bar)
        self.save()
        self._stop_if_asked(bar, stop)
        self._end_epoch(bar, stop)
        self._stop_if_asked(bar, stop)

    def _end_epoch(self, bar: tqdm, stop: StopRequest) -> None:
        """Validate, and log and print the figures.

        A signal ends this at once; the resumed training repeats it.
        """
        with stop.at_once():
            begun = time.monotonic()
            figures = self._validate()
            self.forecast.took(END, time.monotonic() - begun)
            self._tell(figures, bar)

    def _was_killed_in_validation(self) -> bool:
        """Whether the checkpoint is of the end of an epoch whose validation is not in the log."""
        if self.validate is None or self.rank > 0 or self.index > 0:
            return False
        return self.epoch > 0 and not self.history.has_figures(self.step)

    def _describe(self, bar: tqdm) -> None:
        """Show the epoch and the remaining time of the training in front of the bar."""
        left = self.forecast.left(self.work_left())
        epoch = f"epoch {min(self.epoch + 1, self.config.epochs)}/{self.config.epochs}"
        bar.set_description(f"{epoch}, {left}" if left else epoch, refresh=False)

    def _run_steps(self, bar: tqdm, stop: StopRequest) -> None:
        """Run the remaining steps of an epoch."""
        saved_at = time.monotonic()
        if self.index == 0 and self.epoch == self.rectifier.config.norm_epochs:
            first = self.batches(self.epoch, 0, min(CALIBRATION, self.epoch_steps))
            self.rectifier.measure_statistics(self._placed(first))
        done_at = time.monotonic()
        for batch in self._placed(self.batches(self.epoch, self.index, self.epoch_steps)):
            self._run_step(batch)
            self._time_step(time.monotonic() - done_at)
            done_at = time.monotonic()
            self._describe(bar)
            bar.update(self.config.batch_size * self.world)
            if self.index % self.config.log_every == 0:
                self._flush(bar)
            due = time.monotonic() - saved_at > 60 * self.config.save_minutes
            if distributed.any_process(due or bool(stop.signum)):  # one message per step
                self._stop_if_asked(bar, stop)
                self._flush(bar)
                self.save()
                saved_at = time.monotonic()

    def _run_step(self, batch: dict[str, Tensor]) -> None:
        total = self.config.epochs * self.epoch_steps
        self.rectifier.set_rate_factor(rate_factor(self.step, total, self.config.warmup))
        step = self.steps.step if self.index < self.train_steps else self.steps.norm_step
        for name, value in step(batch, self.epoch).items():
            self.sums.setdefault(name, []).append(value)
        self.index += 1

    def _time_step(self, seconds: float) -> None:
        """Add the time of the last step to the forecast."""
        if self.warm:
            self.forecast.took(STEP if self.index <= self.train_steps else NORM_STEP, seconds)
        self.warm = True

    def _placed(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """The batches, on the device of the networks."""
        for batch in batches:
            yield {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}

    def _stop_if_asked(self, bar: tqdm, stop: StopRequest) -> None:
        """Save and raise Stopped if any process has received a signal."""
        if distributed.any_process(bool(stop.signum)):
            self._flush(bar)
            self.save()
            raise Stopped(stop.signum or signal.SIGTERM, self.checkpoint)

    def _flush(self, bar: tqdm) -> None:
        """Log the means since the last call; raises ValueError if a loss is not finite."""
        if not self.sums:
            return
        means = {name: torch.stack(values).mean().item() for name, values in self.sums.items()}
        self.sums = {}
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if distributed.any_process(bool(bad)):
            raise ValueError(self._not_finite(", ".join(bad) or "a loss"))
        if self.rank == 0:
            self._log(means, bar)

    def _log(self, means: dict[str, float], bar: tqdm) -> None:
        """Show the means on the progress bar and add them to the history."""
        bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
        rate = bar.format_dict["rate"] or 0.0
        speed = {f"{self.unit}s_per_s": round(rate, 2)}
        self.history.add(self.step, epoch=self.epoch, **speed, **means)

    def _not_finite(self, what: str) -> str:
        """The error message for `what` that is not finite."""
        kept = "there is no checkpoint yet"
        if self.saved:
            kept = f"the last good checkpoint is {self.checkpoint}"
        advice = "try lower rates (--lr-binary, --lr-norm)"
        return f"{what}: not finite at step {self.step}; {kept}; {advice}"

    def _validate(self) -> dict[str, float]:
        """Measure the student and log the figures."""
        if self.validate is None or self.rank > 0:
            return {}
        figures = self.validate(self.rectifier.student.eval())
        self.history.add(self.step, **figures)
        self.history.write()
        return figures

    def _tell(self, figures: dict[str, float], bar: tqdm) -> None:
        """Print the figures of an epoch, next to those of other networks, and the time left."""
        if not figures:
            return
        shown = [f"{name} {value:.3f}{self._beside(name)}" for name, value in figures.items()]
        left = self.forecast.left(self.work_left())
        bar.write(f"epoch {self.epoch}: {', '.join(shown)}" + (f"; {left}" if left else ""))

    def _beside(self, name: str) -> str:
        """Figures of other networks, such as " (the shipped RB-SF 0.600)"."""
        others = [f"{who} {own[name]:.3f}" for who, own in self.yardsticks.items() if name in own]
        return f" ({', '.join(others)})" if others else ""
