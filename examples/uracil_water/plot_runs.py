"""Conserved quantity, temperature and spread of the committee over the runs of `nvt.xml` and `pimd.xml`.

python plot_runs.py          # after both have run in this folder; draws figures/runs.png and prints a table
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
KJ_PER_MOL = 2625.499639479163
GRADIENT = KJ_PER_MOL / 0.529177210544
RUNS = {"nvt": "classical NVT", "pimd": "8-bead PIMD"}
SETTLING = 0.1


def main():
    figure = Figure(figsize=(6.5, 6.0), layout="tight")
    axes = figure.subplots(4, len(RUNS), sharex="col")
    header = ("run", "length (ps)", "temperature (K)", "drift of the conserved quantity (J/mol per atom and ps)",
              "energy spread, mean / largest (kJ/mol)", "force spread, mean / largest (kJ/mol/angstrom)")  # fmt: skip
    print(f"| {' | '.join(header)} |")
    print("|---|---|---|---|---|---|")
    for column, (name, title) in zip(axes.T, RUNS.items(), strict=True):
        _, time, conserved, temperature, _, _ = np.loadtxt(HERE / f"{name}.out").T
        time = time / 1000.0
        settled = time >= SETTLING
        n_atoms = int((HERE / "box" / "init.xyz").read_text().split(maxsplit=1)[0])
        # i-PI counts the energy of the whole ring polymer.
        conserved = (conserved - conserved[settled].mean()) * KJ_PER_MOL * 1000.0 / n_atoms
        drift = np.polyfit(time[settled], conserved[settled], 1)[0]
        quarters = zip(*(np.array_split(values[settled], 4) for values in (time, conserved)), strict=True)
        error = np.std([np.polyfit(*quarter, 1)[0] for quarter in quarters], ddof=1) / 2.0
        spreads = np.stack([np.loadtxt(file) for file in sorted(HERE.glob(f"{name}.spread_*"))])
        energy, force = spreads[..., 0] * KJ_PER_MOL, spreads[..., 1] * GRADIENT
        cells = (
            title,
            f"{time[-1]:.1f}",
            f"{temperature[settled].mean():.1f} +- {temperature[settled].std():.1f}",
            f"{drift:.2f} +- {error:.2f}",
            f"{energy.mean():.2f} / {energy.max():.2f}",
            f"{force.mean():.1f} / {force.max():.1f}",
        )
        print(f"| {' | '.join(cells)} |")
        column[0].set_title(title)
        column[0].plot(time, conserved, linewidth=0.8)
        margin = np.ptp(conserved[settled])
        column[0].set_ylim(conserved[settled].min() - margin, conserved[settled].max() + margin)
        column[1].plot(time, temperature, linewidth=0.5)
        column[1].set_ylim(270.0, 330.0)
        for values, axis in ((energy, column[2]), (force, column[3])):
            points = time[: values.shape[1]]
            axis.plot(points, values.mean(axis=0), linewidth=0.6, label="mean over the beads")
            if len(values) > 1:
                axis.plot(points, values.max(axis=0), linewidth=0.6, label="largest of the beads")
            # Room for the legend.
            axis.set_ylim(0.0, 1.35 * values.max())
        column[-1].set_xlabel("time / ps")
    labels = ("conserved quantity /\nJ mol$^{-1}$ per atom", "temperature / K",
              "energy spread /\nkJ mol$^{-1}$", "force spread /\nkJ mol$^{-1}$ Å$^{-1}$")  # fmt: skip
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label)
    axes[2, 1].legend(frameon=False, fontsize="small")
    figure.align_ylabels(axes[:, 0])
    figure.savefig(HERE / "figures" / "runs.png", dpi=150)


if __name__ == "__main__":
    main()
