"""Going on with i-PI alone, without `deltaqmmm run`: for scripts that start i-PI themselves, as on a cluster.

    python -m deltaqmmm.ipi.going_on input.xml

in the folder where i-PI runs prints the file to give to i-PI: the newest checkpoint that can be read, or the input. For
a checkpoint it first cuts the outputs back to its step, as `deltaqmmm run` does: i-PI appends to them, and after a kill
they are further than the checkpoint, so that steps would stand there twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.ipi.plumed import restore_states
from deltaqmmm.ipi.restart import cut_back, find_checkpoint, plumed_runs
from deltaqmmm.ipi.simulation import read_simulation


def prepare(folder: Path, source: Path) -> tuple[Path, list[str]]:
    """Find what i-PI goes on from, and cut the outputs back to it.

    Args:
        folder: Where i-PI runs.
        source: The input of the simulation.

    Returns:
        The file to give to i-PI, and lines that say what was done.

    Raises:
        InputError: The input, or what it says of PLUMED, cannot be read or continued.
    """
    start = read_simulation(source)
    found = find_checkpoint(folder, start)
    said = [f"{file} is cut short, and left out." for file in found.unreadable]
    checkpoint = found.simulation
    if checkpoint is None:
        return source, said
    cut, kept = cut_back(folder, checkpoint, checkpoint.step)
    if kept is not None:
        said.append(f"What is later than step {checkpoint.step} in {', '.join(cut)} now stands in {kept.name}/.")
    restore_states(folder, plumed_runs(folder, checkpoint))
    return checkpoint.file, said


def main(words: list[str]) -> int:
    """The command: prints the file to standard output, all else to standard error."""
    if len(words) != 1:
        sys.stderr.write("usage: python -m deltaqmmm.ipi.going_on INPUT, in the folder where i-PI runs\n")
        return 2
    try:
        file, said = prepare(Path(), Path(words[0]))
    except DeltaqmmmError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for line in said:
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
