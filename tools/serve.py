"""Track in the browser: serves a page that shows videos, draws boxes and follows them.

    rbsf serve

prints the page's address. By default only this machine can reach it. Videos that are sent to it are
removed when their page is closed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, require, run, thread_count
from rbsf.tools.tracking.span import place

HIGHEST_PORT = 65535


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, "--port 8080 --users 4")
    first.add_argument(
        "--port",
        type=port,
        default=8000,
        metavar="N",
        help="Port of the page's address; 0 takes any that is free",
    )
    first.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="CPU threads of each network (default: all cores)",
    )
    others = parser.add_argument_group("other users")
    others.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Address to listen to. By default this machine alone reaches the page; 0.0.0.0 lets"
        " others in, without a password",
    )
    others.add_argument(
        "--users",
        type=positive_int,
        default=2,
        metavar="N",
        help="So many track at once, and others wait in line",
    )
    others.add_argument(
        "--max-upload",
        type=positive_int,
        default=500,
        metavar="MB",
        help="Largest video that is taken",
    )
    others.add_argument(
        "--max-length",
        type=length,
        default=9000,
        metavar="LENGTH",
        help="Longest video that is taken, in frames, such as 9000, or in seconds, such as 60s",
    )
    return parser.parse_args(argv)


def port(text: str) -> int:
    """Parse a port (`type=` of argparse)."""
    if not text.isdecimal() or int(text) > HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, from 0 to {HIGHEST_PORT}")
    return int(text)


def length(text: str) -> int | float:
    """Parse a length of a video (`type=` of argparse)."""
    value = place(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} leaves no frame; give at least 1 frame")
    return value


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    args = parse_args(argv)
    require("serve")
    from rbsf.tools.page.server import open_port, serve
    from rbsf.tools.page.settings import Settings

    settings = Settings(args.users, args.threads, args.max_upload, args.max_length)
    with open_port(args.host, args.port) as listener:
        name = f"[{args.host}]" if ":" in args.host else args.host
        print(f"page: http://{name}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        serve(listener, args.host, settings)
    return 0


if __name__ == "__main__":
    run(main)
