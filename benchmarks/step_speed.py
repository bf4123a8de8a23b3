"""Time a training step (R+G+B of ResNet-18 on CIFAR-sized images), and show what takes the time.

Each way to run a step is timed alone: eager (float32, TF32, without channels-last, bfloat16), and
captured as a CUDA graph. Then several captured trainings run at once: as streams of one process, as
processes that take turns, and as processes under NVIDIA's multi-process service. A CPU has only
some of these ways. The report is rewritten after each row.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_report import end_cleanly_on_sigterm, trial_parser, write_report
from rbsf.system.program import positive_int, run
from rbsf.system.text import one_line
from rbsf.tools.gpu.sharing import Mps
from rbsf.tools.step_trial import Trial, trial_config
from rbsf.train.capture import WARM_UP, CapturedSteps
from rbsf.train.device import choose_device

PATIENCE = 120  # seconds after which simultaneous processes are killed
BATCHES = 4  # number of batches, used in turn
PEAK_SIZE = 8192  # side of the square matrices that are multiplied to measure the card's peak
TOP_KERNELS = 12  # number of kernels that a profile lists
PROFILED_STEPS = 3
WAYS = {  # name: arguments of Runner
    "eager, float32": {"tf32": False},
    "eager, TF32": {},
    "eager, TF32, not channels-last": {"channels_last": False},
    "eager, bfloat16": {"precision": torch.bfloat16},
    "captured, TF32": {"captured": True},
    "captured, bfloat16": {"captured": True, "precision": torch.bfloat16},
}
ON_CPU = ("eager, float32", "eager, bfloat16")
BESIDE = "captured, TF32"  # the way used when several trainings run at once
Row = tuple[str, float, str]  # name, images per second or nan, remark


class Runner:
    """A training step on made-up batches, run in one of WAYS.

    Raises ValueError if the step should be captured but cannot be.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        tf32: bool = True,
        channels_last: bool = True,
        precision: torch.dtype = torch.float32,
        captured: bool = False,
    ) -> None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        config = trial_config(stages=args.stages, batch_size=args.batch_size)
        device = choose_device(args.device)
        torch.backends.cudnn.benchmark = device.type == "cuda"
        trial = Trial(config, device, precision=precision)
        self.images = args.batch_size
        self.batches = trial.batches(BATCHES)
        if not channels_last:
            for module in trial.rectifier.modules().values():
                module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self.batches = [contiguous(batch) for batch in self.batches]
        self.rectifier = trial.rectifier
        self.steps = CapturedSteps(trial.rectifier) if captured else trial.rectifier
        self.count = 0
        for _ in range(WARM_UP + 2):
            self.step()
        if isinstance(self.steps, CapturedSteps) and self.steps.failure:
            raise ValueError(f"not captured: {self.steps.failure}")
        synchronize()

    def step(self) -> None:
        """Launch a step."""
        self.steps.step(self.batches[self.count % BATCHES], 0)
        self.count += 1

    def rate(self, seconds: float) -> float:
        """Images per second."""
        return self.images * count_steps([self.step], seconds)


def contiguous(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch with its tensors in channels-first memory."""
    return {name: tensor.contiguous() for name, tensor in batch.items()}


def count_steps(steps: list[Callable[[], None]], seconds: float) -> float:
    """Calls per second of all `steps` together; they are called in turn for about `seconds`."""
    synchronize()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for _ in range(5):  # rounds of calls between two checks of the clock
            for step in steps:
                step()
        done += 5 * len(steps)
        synchronize()
    return done / (time.perf_counter() - begin)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_alone(args: argparse.Namespace) -> Iterator[Row]:
    """Time each way alone."""
    cpu = choose_device(args.device).type == "cpu"
    for name, way in WAYS.items():
        if cpu and name not in ON_CPU:
            continue
        try:
            yield name, Runner(args, **way).rate(args.seconds), ""  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            yield name, float("nan"), one_line(error, 120)


def time_beside(args: argparse.Namespace) -> Iterator[Row]:
    """Time `args.beside` simultaneous trainings; the images of all of them count."""
    count = args.beside
    yield f"{count} streams of a process", *attempt(lambda: time_streams(args))
    yield f"{count} processes", *attempt(lambda: time_processes(args, {}))
    service = Mps()
    reason = service.start()
    if reason:
        yield f"{count} processes, MPS", float("nan"), reason
        return
    try:
        yield f"{count} processes, MPS", *attempt(lambda: time_processes(args, service.environment))
    finally:
        service.stop()


def attempt(function: Callable[[], float]) -> tuple[float, str]:
    """The result of `function` and no remark, or nan and the reason why it failed."""
    try:
        return function(), ""
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        return float("nan"), one_line(error, 120)


def time_streams(args: argparse.Namespace) -> float:
    """Images per second of captured steps on streams of this process."""
    runners = [Runner(args, **WAYS[BESIDE]) for _ in range(args.beside)]  # type: ignore[arg-type]

    def on_stream(runner: Runner, stream: Any) -> Callable[[], None]:
        def step() -> None:
            with torch.cuda.stream(stream):
                runner.step()

        return step

    steps = [on_stream(runner, torch.cuda.Stream()) for runner in runners]
    return args.batch_size * count_steps(steps, args.seconds)


def time_processes(args: argparse.Namespace, variables: dict[str, str]) -> float:
    """Images per second of captured steps in separate processes that work at the same time."""
    processes = [start_process(args, variables) for _ in range(args.beside)]
    patience = threading.Timer(PATIENCE, lambda: [process.kill() for process in processes])
    patience.start()
    try:
        for process in processes:
            expect(process, "ready")
        for process in processes:  # all are ready
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return sum(float(expect(process, "rate").split()[1]) for process in processes)
    finally:
        patience.cancel()
        for process in processes:
            end_process(process)


def start_process(args: argparse.Namespace, variables: dict[str, str]) -> subprocess.Popen:
    """Start a process that runs `serve_one`, with further environment variables."""
    command = [sys.executable, __file__, "--way", BESIDE, "--seconds", str(2 * args.seconds)]
    command += ["--device", args.device, "--stages", args.stages]
    command += ["--batch-size", str(args.batch_size)]
    pipe, environment = subprocess.PIPE, {**os.environ, **variables}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def end_process(process: subprocess.Popen) -> None:
    """Wait until a process has ended; kill it if that takes too long."""
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def expect(process: subprocess.Popen, word: str) -> str:
    """The next line of a process that begins with `word`.

    Raises ValueError if the process ends before that.
    """
    for line in process.stdout:  # type: ignore[union-attr]
        if line.startswith(word):
            return line
    raise ValueError(f"a process ended with exit code {process.wait()}")


def serve_one(args: argparse.Namespace) -> int:
    """Be one of several processes: warm up, wait for a line on standard input, print the rate."""
    runner = Runner(args, **WAYS[args.way])  # type: ignore[arg-type]
    print("ready", flush=True)
    sys.stdin.readline()
    print("rate", runner.rate(args.seconds), flush=True)
    return 0


def measure_peak(device: torch.device) -> dict[str, float]:
    """Operations per second of large TF32 and bfloat16 products, bytes per second of a copy."""
    if device.type == "cpu":
        return {}
    torch.backends.cuda.matmul.allow_tf32 = True
    found = {}
    for name, dtype in (("TF32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device, dtype=dtype) for _ in range(2))
        products = count_steps([partial(torch.mm, a, b)], 0.5)  # type: ignore[list-item]
        found[name] = 2 * PEAK_SIZE**3 * products
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    copies = count_steps([partial(target.copy_, source)], 0.5)  # type: ignore[list-item]
    found["copy"] = 2 * source.nbytes * copies
    return found


def count_operations(args: argparse.Namespace) -> int:
    """Floating-point operations of a step's convolutions and linear layers, forwards and backwards.

    They are counted in float64, since the CPU then does not use kernels for bits.
    """
    config = trial_config(stages=args.stages, batch_size=2)
    trial = Trial(config, torch.device("cpu"), dtype=torch.float64)
    (batch,) = trial.batches(1)
    with FlopCounterMode(display=False) as counter:
        trial.rectifier.step(batch, 0)
    return counter.get_total_flops() * args.batch_size // 2


def profile_step(args: argparse.Namespace) -> str:
    """The kernels that take most of the time of an eager step.

    Raises RuntimeError if the profiler records nothing.
    """
    runner = Runner(args)
    cuda = choose_device(args.device).type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(PROFILED_STEPS):
            runner.step()
        synchronize()
    spent = attrgetter("self_device_time_total" if cuda else "self_cpu_time_total")  # microseconds
    kernels = sorted(profile.key_averages(), key=spent, reverse=True)
    total = sum(spent(kernel) for kernel in kernels)
    if not total:
        raise RuntimeError("the profiler has recorded nothing")
    calls = sum(kernel.count for kernel in kernels if spent(kernel)) / PROFILED_STEPS
    milliseconds = total / (1000 * PROFILED_STEPS)
    head = f"{milliseconds:.2f} ms and {calls:.0f} kernels or operations a step; the largest:"
    lines = [head, ""]
    for kernel in kernels[:TOP_KERNELS]:
        share, count = spent(kernel) / total, kernel.count / PROFILED_STEPS
        lines.append(f"- {share:.0%}, {count:.0f} calls: `{kernel.key[:100]}`")
    return "\n".join(lines)


class Report:
    """The table so far, written after each row."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, choose_device(args.device)
        self.operations = count_operations(args)
        self.peak = measure_peak(self.device)
        self.rows: list[list[str]] = []
        self.rates: dict[str, float] = {}
        self.text = ""

    def add(self, name: str, rate: float, remark: str) -> None:
        """Add a row, print it and write the report."""
        self.rates[name] = rate
        peak = self.peak.get("bfloat16" if "bfloat16" in name else "TF32")
        done = rate * self.operations / self.args.batch_size
        share = f"{done / peak:.1%}" if peak else ""
        milliseconds = 1000 * self.args.batch_size / rate
        figures = [f"{rate:,.0f}", f"{milliseconds:.2f}", f"{done / 1e12:.2f}", share]
        self.rows.append([name, *figures, remark])
        print(" | ".join(self.rows[-1]), flush=True)
        self.write()

    def write(self) -> None:
        """Write both files of the report."""
        heads = ["", "images a second", "ms a step", "TFLOP/s", "share of the peak", ""]
        peaks = ", ".join(f"{name} {value / 1e12:.1f} T/s" for name, value in self.peak.items())
        count = f"{self.operations / 1e9:.1f} G operations of products"
        step = f"a step of {self.args.batch_size} images"
        text = f"{count} {step}. Measured peaks: {peaks or 'none on a CPU'}."
        if self.text:
            text += f"\n\n{self.text}"
        title = f"A training step, R+G+B, ResNet-18 {self.args.stages}"
        write_report(self.args.out, title, self.device, heads, self.rows, text, rates=self.rates)


def main(argv: list[str] | None = None) -> int:
    """Time all ways, print and write the table."""
    parser = trial_parser(__doc__ or "", batch_size=128, out=Path("runs/step_speed"))
    add = parser.add_argument
    add(
        "--beside",
        type=positive_int,
        default=4,
        metavar="N",
        help="trainings at once (default: %(default)s)",
    )
    add(
        "--seconds",
        type=float,
        default=3.0,
        metavar="S",
        help="to time each way for (default: %(default)s)",
    )
    add(
        "--way",
        choices=tuple(WAYS),
        help="time this one alone, once a line comes on standard input",
    )
    args = parser.parse_args(argv)
    end_cleanly_on_sigterm()
    if args.way:
        return serve_one(args)
    report = Report(args)
    for row in time_alone(args):
        report.add(*row)
    if report.device.type == "cuda":
        for row in time_beside(args):
            report.add(*row)
    try:
        report.text = profile_step(args)
    except RuntimeError as error:
        report.text = f"No profile here: {one_line(error, 150)}"
    report.write()
    return 0


if __name__ == "__main__":
    run(main)
