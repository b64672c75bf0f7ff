"""A driver process around the toy potential, for tests that kill it, signal it, or run it against a real i-PI.

Prints the messages of the client; the last line of the output is the outcome or the error. A line of JSON per
evaluation (frames, and the clock at its begin) goes to --log.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from toy_potential import evaluate

from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.ipi import Client, ClientSettings, ExpectedFrames, InetAddress, StepReport, UnixAddress


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-u", "--unix", action="store_true")
    parser.add_argument("-a", "--address", required=True)
    parser.add_argument("-p", "--port", type=int, default=0)
    parser.add_argument("-S", "--sockets-prefix", default="/tmp/ipi_")
    parser.add_argument("--shm", action="store_true")
    parser.add_argument("--atoms", type=int, default=3)
    parser.add_argument("--wait", type=float, default=30.0)
    parser.add_argument("--handshake", type=float, default=30.0)
    parser.add_argument("--reconnect", type=float, default=0.0)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds that each evaluation takes on top")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()

    def logged(cells: np.ndarray, positions: np.ndarray):
        with options.log.open("a") as log:
            log.write(json.dumps({"frames": len(positions), "time": time.monotonic()}) + "\n")
        time.sleep(options.sleep)
        return evaluate(cells, positions)

    def report(step: StepReport) -> None:
        assert 0 < step.n_evaluated <= step.n_frames
        assert step.computing_seconds >= options.sleep
        assert step.waiting_seconds >= 0.0

    unix = options.unix or options.shm
    client = Client(
        UnixAddress(options.address, options.sockets_prefix) if unix else InetAddress(options.address, options.port),
        logged,
        ExpectedFrames(options.atoms),
        ClientSettings(
            shared_memory=options.shm,
            wait_seconds=options.wait,
            handshake_seconds=options.handshake,
            reconnect_seconds=options.reconnect,
        ),
        on_step=report,
        notify=lambda text: print(text, flush=True),
    )
    try:
        outcome = client.run()
    except DeltaqmmmError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    print(outcome.message, flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
