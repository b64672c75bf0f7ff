"""`deltaqmmm` with a clock around each evaluation: `python -m benchmarks.timed_driver TIMES drive config.toml ...`.

All else is the driver as it is. At its end the file TIMES gets one line for each evaluation: when it began and ended,
by the monotonic clock, in seconds, and the number of its frames.
"""

import sys
import time
from pathlib import Path

from deltaqmmm.cli.main import main
from deltaqmmm.config.loading import LoadedPotential

if __name__ == "__main__":
    times = []
    evaluate = LoadedPotential.evaluate

    def timed(self, cells, positions):
        """The evaluation, its beginning and its end."""
        begin = time.monotonic()
        evaluation = evaluate(self, cells, positions)
        times.append((begin, time.monotonic(), len(positions)))
        return evaluation

    LoadedPotential.evaluate = timed
    status = main(sys.argv[2:])
    Path(sys.argv[1]).write_text("".join(f"{begin!r} {end!r} {frames}\n" for begin, end, frames in times))
    sys.exit(status)
