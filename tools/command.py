"""All programs of this project as one command: `rbsf track --video in.mp4 --init x,y,w,h`.

Each command runs the same program as a file in tools/ or eval/.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from rbsf.system.program import run

COMMANDS = {  # name: (module, what it does)
    "track": ("rbsf.tools.track", "follow targets in a video"),
    "benchmark": (
        "rbsf.eval.run_benchmarks",
        "run trackers over a benchmark and report their scores",
    ),
    "long-term": ("rbsf.eval.run_long_term", "score trackers where targets are absent for a time"),
    "train": ("rbsf.tools.train_rbsf", "train a tracker"),
    "prepare-pairs": (
        "rbsf.tools.prepare_pairs",
        "cut training pairs out of videos and images, once",
    ),
    "show-pairs": ("rbsf.tools.show_pairs", "draw the first pairs that a training would see"),
    "tune": ("rbsf.tools.tune", "search the constants of tracking"),
    "train-classifier": ("rbsf.tools.train_classifier", "train a classifier"),
    "classify": ("rbsf.tools.classify", "class images by a trained classifier"),
    "export": ("rbsf.tools.export", "turn trained weights into a packed file or ONNX graphs"),
    "cost": ("rbsf.tools.cost", "count a network's bits and multiplications"),
    "compare": ("rbsf.tools.compare", "put benchmark reports side by side"),
    "reproduce": ("rbsf.tools.reproduce", "train the tables of the paper"),
    "serve": ("rbsf.tools.serve", "track in the browser"),
    "demo": ("rbsf.tools.demo", "make a video, track it, score it"),
    "make-tracks": ("rbsf.tools.make_tracks", "find targets where there are no boxes"),
    "make-synthetic": ("rbsf.tools.make_synthetic", "make videos with true boxes"),
    "animation": ("rbsf.tools.animation", "track a made-up street, as in the README"),
    "gpu-run": ("rbsf.tools.gpu_run", "do a list of work that needs a GPU"),
}


def main() -> NoReturn:
    """Run the program that the command line names; exits with its code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(help_text())
        sys.exit(0)
    if name == "--version":
        print(f"rbsf {_version()}")
        sys.exit(0)
    if name not in COMMANDS:
        advice = f"there are {', '.join(COMMANDS)}"
        print(f"error: rbsf knows no command {name!r}; {advice}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"rbsf {name}", *sys.argv[2:]]
    run(lambda: import_module(COMMANDS[name][0]).main())


def _version() -> str:
    try:
        return version("rbsf")
    except PackageNotFoundError:
        return "of a folder of sources that is not installed"


def help_text() -> str:
    """All commands, a line each."""
    commands = [f"  {name:18}{what}" for name, (_, what) in COMMANDS.items()]
    last = "rbsf COMMAND --help lists the flags of a command; rbsf --version names the version."
    return "\n".join(["usage: rbsf COMMAND [flags]", "", *commands, "", last])
