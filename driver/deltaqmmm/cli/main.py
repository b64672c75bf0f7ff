"""The `deltaqmmm` command: its parser, and how errors end it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from deltaqmmm.cli import build, check, compare, drive, evaluate, info, keys, label, new, plot, run, sample, train
from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.version import __version__

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error, and more messages")
    parser = argparse.ArgumentParser(
        prog="deltaqmmm",
        description="DFTB QM/MM forces for i-PI.",
        epilog="`deltaqmmm COMMAND --help` explains a command, `deltaqmmm config` the configuration file.",
    )
    parser.add_argument("--version", action="version", version=f"deltaqmmm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (build, new, run, plot, drive, evaluate, check, compare, sample, label, train, info, keys):
        module.add_parser(commands, [common])
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; None takes them from the command line.

    Returns:
        The exit status: 0, 1 after an error (one message on stderr), 2 for wrong usage, 130 after an interrupt.
    """
    options = make_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.WARNING,
        format="%(levelname)s: %(message)s" if not options.debug else "%(asctime)s %(name)s: %(message)s",
    )
    try:
        return int(options.run(options))
    except DeltaqmmmError as error:
        if options.debug:
            raise
        print(f"deltaqmmm {options.command}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print(f"deltaqmmm {options.command}: interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: no more output, and none at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        if options.debug:
            raise
        print(f"deltaqmmm {options.command}: {error}. Check the file, its permissions and the space.", file=sys.stderr)
        return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
