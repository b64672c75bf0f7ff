"""The command line."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks import correction, dftb, scaling, step, wire
from benchmarks.measurements import table
from benchmarks.programs import Cores, ProgramFailedError
from benchmarks.session import Options, Session
from benchmarks.systems import MOLECULES

HERE = Path(__file__).parent
CASES = {"dftb": dftb, "step": step, "wire": wire, "scaling": scaling, "correction": correction}
DESCRIPTION = """\
Times deltaqmmm beside other programs in the same run: all take turns, on the same cores, thread for thread.

  dftb         DFTB energy and gradient in the field of water, beside DFTB+ and LAPACK
  step         the whole QM/MM step of uracil in water (4,400 atoms), beside sander and OpenMM alone
  wire         how much of a step with i-PI is not physics, beside i-PI with its dummy driver
  scaling      cost against QM atoms, MM atoms and batch size, with fitted exponents
  correction   the learned correction beside DFTB, of 12 to 63 QM atoms
  all          all of them

Boxes and trajectories are made once and kept (--cache). DFTB+ is searched where the driver searches it
(README). What is missing is left out, with the reason. Let nothing else run on the machine."""


def positive(text):
    """A positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: a positive number is needed")
    return value


def parse(arguments):
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="+", choices=(*CASES, "all"), metavar="CASE", help="what to time; or all")
    parser.add_argument("--quick", action="store_true", help="the smallest of everything: a trial of about a minute")
    parser.add_argument("--molecules", nargs="+", choices=tuple(MOLECULES), help="default: those of the case")
    parser.add_argument("--atoms", nargs="+", type=positive, metavar="N", help="sizes of the boxes of step and wire")
    parser.add_argument(
        "--batches", nargs="+", type=positive, metavar="N", help="frames in a batch (default: of the case)"
    )
    parser.add_argument("--threads", nargs="+", type=positive, metavar="N", help="threads, and as many cores")
    parser.add_argument("--rounds", type=positive, metavar="N", help="turns of each program that count")
    parser.add_argument("--devices", nargs="+", metavar="NAME", help="cpu, cuda (default: those that are found)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of JSON and figures")
    parser.add_argument("--cache", type=Path, default=HERE / "cache", help="folder of boxes and trajectories")
    return parser.parse_args(arguments)


def found_devices():
    """The processor, and a CUDA device if there is one."""
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def main(arguments=None):
    """Run the command."""
    parsed = parse(arguments)
    options = Options(
        molecules=parsed.molecules and tuple(parsed.molecules),
        atoms=parsed.atoms and tuple(sorted(set(parsed.atoms))),
        batches=parsed.batches and tuple(sorted(set(parsed.batches))),
        threads=parsed.threads and tuple(sorted(set(parsed.threads))),
        rounds=parsed.rounds,
        output=parsed.output.resolve(),
        cache=parsed.cache.resolve(),
        devices=tuple(parsed.devices or found_devices()),
        quick=parsed.quick,
    )
    # A trial runs beside other work, such as tests, which would meet it on the same core.
    Cores.bound = not options.quick
    names = list(CASES) if "all" in parsed.cases else list(dict.fromkeys(parsed.cases))
    failed = False
    with Session(options) as session:
        for name in names:
            try:
                failed |= not finish(session, CASES[name])
            except ProgramFailedError as error:
                print(f"\n{name}: {error}", file=sys.stderr)
                failed = True
    return int(failed)


def finish(session, case):
    """Run a case, show it and write its files; False if a check failed."""
    start = time.monotonic()
    result = case.run(session)
    for title, headers, rows in case.tables(result):
        if len(session.options.devices) == 1 and "device" in headers:
            place = headers.index("device")
            headers, *rows = ([*row[:place], *row[place + 1 :]] for row in [headers, *rows])
        print(f"\n{title}\n\n{table(headers, rows)}")
    for row in result.checks:
        words = "agrees" if row["passed"] else "DIFFERS"
        print(f"{row['what']}, {row['system']}: {words}, largest {row['largest']:.1e} {row['unit']}")
    for name, row in result.programs.items():
        print(f"{name}: {row.get('version', 'present')}" if row["available"] else f"{name}: left out: {row['reason']}")
    files = [result.write(session.options.output), *case.draw(result, session.options.output)]
    print(f"\n{result.case}: {time.monotonic() - start:.0f} s; {', '.join(str(file) for file in files)}", flush=True)
    return all(row["passed"] for row in result.checks)


if __name__ == "__main__":
    sys.exit(main())
