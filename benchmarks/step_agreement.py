"""Check that a GPU computes the same as the CPU: 1 and 20 training steps of ResNet-18, R+G+B.

Distances are |a - b| / |b| over all numbers of a kind. Signs make a step discontinuous: if a value
near zero is rounded differently, its sign flips, and the step differs by more than rounding errors.
This does not happen in 64 bits, so the bounds are tight there. In 32 bits the bounds come from the
differences of the CPU's own results. The exit code is 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.gpu_report import end_cleanly_on_sigterm, trial_parser, write_report
from rbsf.system.program import positive_int, run
from rbsf.tools.step_trial import Trial, trial_config
from rbsf.train.capture import WARM_UP, CapturedSteps
from rbsf.train.device import choose_device

DOUBLE = torch.float64
EXACT, EXACT_LONG = 1e-9, 1e-6  # bounds in 64 bits, for one step and for several
LOSS_BOUNDS = {"TF32": 0.02, "bfloat16": 0.1}  # bounds for the loss of one step
Distances = tuple[float, float, float]  # distances of losses, gradients and weights


@dataclass
class Outcome:
    """The results of some steps, in float64 on the CPU."""

    loss: Tensor  # [steps]
    gradients: Tensor  # gradients of the last step, flat
    weights: Tensor  # weights after the last step, flat


@dataclass
class Row:
    """A comparison: distances of losses, gradients and weights, and their bounds."""

    name: str
    distances: Distances
    bounds: tuple[float | None, float | None, float | None]  # None for no bound
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether no bound is exceeded; nan exceeds every bound."""
        pairs = zip(self.distances, self.bounds, strict=True)
        return all(distance <= bound for distance, bound in pairs if bound is not None)


def take_steps(trial: Trial, count: int, captured: bool = False) -> Outcome:
    """Run `count` steps. Raises ValueError if they should be captured but cannot be."""
    steps = CapturedSteps(trial.rectifier) if captured else trial.rectifier
    losses = [steps.step(batch, 0)["loss"].double().cpu() for batch in trial.batches(count)]
    if isinstance(steps, CapturedSteps) and steps.failure:
        raise ValueError(f"not captured: {steps.failure}")
    weights: list[Tensor] = []
    for name, module in trial.rectifier.modules().items():
        if name != "teacher":
            weights += module.parameters()
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return Outcome(torch.stack(losses), _flat(gradients), _flat(weights))


def distances(found: Outcome, expected: Outcome) -> Distances:
    """Relative distances of losses, gradients and weights."""
    return (
        _distance(found.loss, expected.loss),
        _distance(found.gradients, expected.gradients),
        _distance(found.weights, expected.weights),
    )


def compare(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Yield all comparisons, one after the other."""
    cpu = torch.device("cpu")
    config = trial_config(stages=args.stages, batch_size=args.batch_size)

    def outcome(
        place: torch.device,
        count: int = 1,
        dtype: torch.dtype = torch.float32,
        precision: torch.dtype = torch.float32,
        captured: bool = False,
    ) -> Outcome:
        return take_steps(Trial(config, place, dtype, precision), count, captured)

    with arithmetic(tf32=False):
        exact = outcome(cpu, dtype=DOUBLE)
        one = distances(outcome(device, dtype=DOUBLE), exact)
        yield Row("float64, one step", one, (EXACT,) * 3)
        several = distances(outcome(device, args.steps, DOUBLE), outcome(cpu, args.steps, DOUBLE))
        yield Row(f"float64, {args.steps} steps", several, (EXACT_LONG, None, EXACT_LONG))
        one_thread = with_threads(1, lambda: outcome(cpu))
        two_threads = with_threads(2, lambda: outcome(cpu))
        spreads = [distances(other, one_thread) for other in (two_threads, exact)]
        spread = tuple(2 * max(values) for values in zip(*spreads, strict=True))
        note = "bounds: twice what the CPU with 2 threads, or in float64, differs"
        note += " from the CPU with 1"
        yield Row("float32, one step", distances(outcome(device), one_thread), spread, note)  # type: ignore[arg-type]
    half = distances(outcome(device, precision=torch.bfloat16), exact)
    yield Row("bfloat16, one step", half, (LOSS_BOUNDS["bfloat16"], None, None))
    if device.type != "cuda":
        return
    with arithmetic(tf32=True):
        rounded = distances(outcome(device), exact)
        yield Row("TF32, one step", rounded, (LOSS_BOUNDS["TF32"], None, None))

    def captured() -> tuple[Distances, str]:
        eager = outcome(device, WARM_UP + 3, DOUBLE)
        replayed = outcome(device, WARM_UP + 3, DOUBLE, captured=True)
        equal = torch.equal(eager.weights, replayed.weights)
        return distances(replayed, eager), "equal to the bit" if equal else "not to the bit"

    def compiled() -> tuple[Distances, str]:
        config = trial_config(stages=args.stages, batch_size=args.batch_size, compile=True)
        return distances(take_steps(Trial(config, device, DOUBLE), 1), exact), ""

    with arithmetic(tf32=False, repeatable=True):
        yield attempt(f"captured and eager, float64, {WARM_UP + 3} steps", captured)
        yield attempt("compiled, float64, one step", compiled)


def attempt(name: str, function: Callable[[], tuple[Distances, str]]) -> Row:
    """A row with the distances and the note that `function` returns, or with its error."""
    try:
        found, note = function()
    except Exception as error:  # compilers have their own error classes
        found = (math.nan,) * 3
        lines = str(error).splitlines() or [type(error).__name__]
        note = lines[0][:120]
    return Row(name, found, (EXACT,) * 3, note)


@contextmanager
def arithmetic(tf32: bool, repeatable: bool = False) -> Iterator[None]:
    """Context manager that lets GPUs use TF32 for float32, or makes their results repeatable."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = repeatable
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
        torch.backends.cudnn.deterministic = False


def with_threads(threads: int, function: Callable[[], Outcome]) -> Outcome:
    """The outcome of `function` when PyTorch uses `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors])


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def as_cells(row: Row) -> list[str]:
    """The cells of a comparison in the table."""
    cells = [row.name]
    for value, bound in zip(row.distances, row.bounds, strict=True):
        limit = "" if bound is None else f" (at most {bound:.0e})"
        cells.append(f"{value:.1e}{limit}")
    return [*cells, "yes" if row.passed else "**no**", row.note]


def main(argv: list[str] | None = None) -> int:
    """Compare, print and write the table."""
    parser = trial_parser(__doc__ or "", batch_size=64, out=Path("runs/step_agreement"))
    help_of_steps = "steps of the long comparison (default: %(default)s)"
    parser.add_argument("--steps", type=positive_int, default=20, metavar="N", help=help_of_steps)
    args = parser.parse_args(argv)
    end_cleanly_on_sigterm()
    device = choose_device(args.device)
    title = f"A step on {args.device} and on the CPU"
    heads = ["", "loss", "gradients", "weights", "within", ""]
    rows: list[list[str]] = []
    missed: list[str] = []
    for row in compare(args, device):
        rows.append(as_cells(row))
        if not row.passed:
            missed.append(row.name)
        print(" | ".join(rows[-1]), flush=True)
        write_report(args.out, title, device, heads, rows)
    if missed:
        print(f"out of bounds: {'; '.join(missed)}")
        return 1
    print(f"all {len(rows)} comparisons within their bounds")
    return 0


if __name__ == "__main__":
    run(main)
