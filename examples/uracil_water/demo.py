"""The main job from end to end: uracil in flexible water, path-integral MD by i-PI on ML-corrected DFTB QM/MM forces.

`make demo` runs this. It builds the system from a SMILES string, adds the committee that was trained in this folder to
the configuration, starts i-PI and the driver, shows their progress, and ends with a table and a figure. Each step is a
command that a user would type; they are printed.
"""

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deltaqmmm.cli.console import WARMING_UP

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
SMILES = "O=c1cc[nH]c(=O)[nH]1"
BEADS = 4
MODEL = HERE / "delta.safetensors"
HARTREE_IN_KJ_PER_MOL = 2625.4996
STALL_SECONDS = 180.0
# The first step comes after the loops have been compiled, which took up to 132 s on machines with two cores.
START_SECONDS = 900.0
SPREAD_STRIDE = 10
# i-PI starts all beads of an atom at one point; they spread in this time.
SPREADING_FEMTOSECONDS = 25.0
COLUMNS = ("step", "time", "conserved", "temperature", "kinetic", "potential")


def main():
    options = parse_arguments()
    folder = options.folder.resolve()
    start = time.monotonic()
    if not (folder / "config.toml").exists():
        build(folder, options)
    built = time.monotonic()
    with contextlib.ExitStack() as stack:
        follow(folder, options.steps, stack)
    finished = time.monotonic()
    columns = read_properties(folder)
    figure = plot(folder, columns)
    report(folder, figure, columns, built - start, finished - built)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Path-integral MD of uracil in water: i-PI and deltaqmmm, end to end.")
    parser.add_argument("--folder", type=Path, default=HERE / "demo", help="where to work (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="MD steps of 0.5 fs, at least 60 (default: %(default)s)")
    parser.add_argument("--waters", type=int, default=1000, help="water molecules (default: %(default)s)")
    options = parser.parse_args()
    if options.steps < 60:
        parser.error(f"--steps {options.steps}: the beads take 50 steps to spread; give at least 60.")
    return options


def show(command, folder=None):
    words = [Path(word).name if str(word).startswith(str(BIN)) else str(word) for word in command]
    print(f"\n$ {shlex.join(words)}" + (f"        (in {os.path.relpath(folder)})" if folder else ""), flush=True)


def build(folder, options):
    command = [BIN / "deltaqmmm", "build", os.path.relpath(folder), SMILES, "--name", "URA"]
    command += ["--waters", str(options.waters), "--beads", str(BEADS), "--overwrite"]
    show(command)
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("demo: the build failed; its message stands above.")
    add_correction(folder / "config.toml")


def add_correction(config):
    """What a user would write into config.toml: the baseline that the model was trained on, and the model."""
    text = re.sub(r'(?m)^dispersion = "none".*$', 'dispersion = "d3bj"', config.read_text())
    model = os.path.relpath(MODEL, config.parent)
    limit = tomllib.loads((HERE / "box" / "config.toml").read_text())["correction"]["energy_spread_limit_kj_per_mol"]
    lines = [
        f'model = "{model}"  # a committee: PBE0-D3 minus DFTB3-D3',
        'action = "fade"',
        f"energy_spread_limit_kj_per_mol = {limit}",
    ]
    config.write_text("\n".join([text, "[correction]", *lines, ""]))
    print('\nconfig.toml gets [dftb] dispersion = "d3bj" and [correction]:', *lines, sep="\n    ")


def start_program(command, folder, log, stack):
    """Start a program in the folder with its output in a log; it is ended when the stack is left."""
    show(command, folder)
    file = stack.enter_context((folder / log).open("w"))
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PATH": path}
    )
    stack.callback(stop, process)
    return process


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def follow(folder, steps, stack):
    """Run i-PI and the driver side by side and show the progress that i-PI writes."""
    address = f"deltaqmmm_demo_{os.getpid()}"
    text = (folder / "input.xml").read_text()
    text = re.sub(r"<address>.*?</address>", f"<address> {address} </address>", text)
    text = re.sub(r"<total_steps>.*?</total_steps>", f"<total_steps> {steps} </total_steps>", text)
    # The charges go out as they are in input.xml; the spread of the committee beside them.
    kind = "extra_type='committee_energy_spread'"
    spread = f"<trajectory filename='spread' stride='{SPREAD_STRIDE}' {kind}> extras </trajectory>"
    text = text.replace("    <checkpoint", f"    {spread}\n    <checkpoint", 1)
    (folder / "demo.xml").write_text(text)
    for old in [*folder.glob("run.*"), *folder.glob("#*#")]:
        old.unlink()
    server = start_program([BIN / "i-pi", "demo.xml"], folder, "ipi.log", stack)
    driver = start_program(
        [BIN / "deltaqmmm", "drive", "config.toml", "-u", "-a", address], folder, "driver.log", stack
    )
    print(f"\n{WARMING_UP}", flush=True)
    output, last = folder / "run.out", time.monotonic()
    with tqdm(total=steps, desc="path-integral MD", unit="step") as bar:
        while True:
            ended = server.poll() is not None
            done = steps_done(output)
            if done > bar.n:
                if bar.n == 0:
                    # The estimate is of steps, not of the loops that were compiled before the first one.
                    bar.unpause()
                bar.update(done - bar.n)
                last = time.monotonic()
            if ended and server.returncode == 0 and done >= steps:
                break
            failed = ended or driver.poll() not in (None, 0)
            patience = STALL_SECONDS if bar.n else START_SECONDS
            if failed or time.monotonic() - last > patience:
                bar.close()
                fail(folder, "ended too early" if failed else f"made no step in {patience:.0f} s")
            time.sleep(0.25)
    driver.wait(20)


def steps_done(output):
    if not output.exists():
        return 0
    lines = [line for line in output.read_text().splitlines() if not line.startswith("#")]
    return int(float(lines[-1].split()[0])) if lines and len(lines[-1].split()) == len(COLUMNS) else 0


def fail(folder, what):
    for log in ("driver.log", "ipi.log"):
        tail = "\n".join((folder / log).read_text().splitlines()[-12:])
        print(f"\n--- the end of {log}:\n{tail}", file=sys.stderr)
    sys.exit(f"\ndemo: the simulation {what}; the logs in {folder} say why.")


def read_properties(folder):
    table = np.loadtxt(folder / "run.out")
    columns = dict(zip(COLUMNS, table.T, strict=True))
    # One file for each bead: the spread of the committee in hartree, one line each SPREAD_STRIDE steps.
    files = sorted(folder.glob("run.spread_*"))
    columns["spread"] = np.stack([np.loadtxt(file, comments="#", ndmin=1) for file in files], axis=1)
    return columns


def plot(folder, columns):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 1, figsize=(6.5, 8.6), sharex=True, constrained_layout=True)
    time = columns["time"]
    settled = time >= SPREADING_FEMTOSECONDS
    spreads = columns["spread"] * HARTREE_IN_KJ_PER_MOL
    panels = [(columns["temperature"], "temperature / K")]
    for name, label in (("potential", "potential energy"), ("conserved", "conserved quantity")):
        values = columns[name] * HARTREE_IN_KJ_PER_MOL
        panels.append((values - values[settled].mean(), f"{label},\nfrom its mean / kJ mol$^{{-1}}$"))
    for axis, (values, label) in zip(axes[:-1], panels, strict=True):
        axis.plot(time, values, linewidth=1.2)
        axis.set_ylabel(label)
        axis.axvspan(0.0, SPREADING_FEMTOSECONDS, color="0.9")
        margin = np.ptp(values[settled])
        axis.set_ylim(values[settled].min() - margin, values[settled].max() + margin)
    axes[-1].plot(time[::SPREAD_STRIDE][: len(spreads)], spreads, linewidth=0.8)
    axes[-1].set_ylabel("spread of the committee,\neach bead / kJ mol$^{-1}$")
    axes[-1].set_ylim(0.0, None)
    axes[0].axhline(300.0, color="black", linewidth=0.8, linestyle="--", label="thermostat")
    axes[0].legend(frameon=False, loc="upper right")
    axes[0].set_title(f"Uracil (DFTB3-D3 + ML) in water, {BEADS} beads, PILE-L, 300 K")
    axes[1].annotate(
        "beads spread",
        (0.5 * SPREADING_FEMTOSECONDS, 0.96),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="center",
        va="top",
        fontsize="small",
    )
    axes[-1].set_xlabel("time / fs")
    axes[-1].set_xlim(0.0, time[-1])
    figure.align_ylabels(axes)
    path = folder / "demo.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def report(folder, figure, columns, build_seconds, run_seconds):
    n_atoms = int((folder / "init.xyz").read_text().split(maxsplit=1)[0])
    steps = int(columns["step"][-1])
    settled = columns["time"] >= SPREADING_FEMTOSECONDS
    time, temperature = columns["time"][settled] / 1000.0, columns["temperature"][settled]
    conserved = columns["conserved"][settled] * HARTREE_IN_KJ_PER_MOL * 1000.0 / n_atoms
    drift = np.polyfit(time, conserved, 1)[0]
    spreads = columns["spread"] * HARTREE_IN_KJ_PER_MOL
    rows = (
        ("atoms", f"{n_atoms}, of them 12 QM (uracil, DFTB3-D3/3ob + correction to PBE0-D3)"),
        ("beads, steps", f"{BEADS}, {steps} of 0.5 fs"),
        ("temperature, once the beads have spread", f"{temperature.mean():.1f} +- {temperature.std():.1f} K"),
        ("conserved quantity, drift since then", f"{drift:.2f} J/mol per atom and ps"),
        ("its fluctuation", f"{conserved.std():.2f} J/mol per atom"),
        ("spread of the committee, mean and largest", f"{spreads.mean():.2f} and {spreads.max():.2f} kJ/mol"),
        ("time to build", f"{build_seconds:.0f} s" if build_seconds > 1 else "built before"),
        ("time per step, start of programs included", f"{1000 * run_seconds / steps:.0f} ms for {BEADS} beads"),
    )
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:{width}}  {value}")
    place = os.path.relpath(folder)
    print(f"\nFigure:       {os.path.relpath(figure)}")
    print(f"All else:     {place}/  (config.toml, input.xml, i-PI's run.*, driver.log, ipi.log)")
    print("Try next:     deltaqmmm check config.toml        the terms, their forces by finite differences, their times")
    print('              deltaqmmm build mine "YOUR SMILES"  your own molecule in water')
    print("              more beads or another thermostat: edit input.xml, then `i-pi input.xml` and `deltaqmmm drive`")


if __name__ == "__main__":
    main()
