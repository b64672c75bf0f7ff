"""`deltaqmmm config`: the table of all keys, or a check of one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltaqmmm.config import explain_keys, read_config


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "config", parents=parents, help="explain every key of the configuration file, or check one file"
    )
    parser.add_argument("config", type=Path, nargs="?", help="a configuration file to check; without it, explain keys")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.config is None:
        print(explain_keys())
        return 0
    config = read_config(options.config)
    print(f"{config.file}: every key and value can be used.")
    return 0
