"""i-PI and the driver side by side in one folder, as a user runs them; neither outlives the call."""

import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def run_pair(folder, drive_flags, *, timeout, input_file="input.xml"):
    """Run both to their end; both must end with status 0.

    Args:
        folder: Holds the i-PI input and config.toml.
        drive_flags: Flags of ``deltaqmmm drive`` that name the address; None where i-PI needs no driver (ffdirect).
        timeout: Seconds for each of the two.
        input_file: The i-PI input.
    """
    log = folder / "ipi.log"
    with log.open("w") as file:
        processes = [subprocess.Popen([BIN / "i-pi", input_file], cwd=folder, stdout=file, stderr=file)]
        if drive_flags is not None:
            command = [BIN / "deltaqmmm", "drive", "config.toml", *drive_flags, "--quiet"]
            processes.append(subprocess.Popen(command, cwd=folder))
        try:
            codes = [process.wait(timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert codes == [0] * len(codes), log.read_text()[-2000:]
