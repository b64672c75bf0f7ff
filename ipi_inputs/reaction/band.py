"""Where a nudged elastic band or an instanton starts: images on the straight line between two structures.

    python band.py REACTANT.xyz PRODUCT.xyz N > band.xyz           between two minima, evenly spaced
    python band.py IMAGE.xyz IMAGE.xyz N instanton > path.xyz      between two images of the band, denser at the ends

Both files have the same atoms in the same order, as i-PI or `deltaqmmm build` writes them; of several frames the last
counts. The product is moved and turned onto the reactant first.
"""

import sys
from pathlib import Path

import numpy as np
from ase.build.rotate import minimize_rotation_and_translation
from ase.io import read


def band(reactant, product, number, instanton=False):
    """Positions of the images, shape (number, atoms, 3), in the unit of the input."""
    if list(reactant.symbols) != list(product.symbols):
        sys.exit("the two files differ in their atoms: the same atoms in the same order are needed")
    minimize_rotation_and_translation(reactant, product)
    shares = np.linspace(0.0, 1.0, number)
    if instanton:
        # Half of an oscillation: slow where it turns back.
        shares = 0.5 - 0.5 * np.cos(np.pi * (np.arange(number) + 0.5) / number)
    shares = shares[:, None, None]
    return (1.0 - shares) * reactant.positions + shares * product.positions


def text(symbols, images, comment):
    """Frames in i-PI's xyz format; the comment names cell and units."""
    frames = []
    for positions in images:
        rows = [
            f"{symbol:<2s} {x:16.8f} {y:16.8f} {z:16.8f}" for symbol, (x, y, z) in zip(symbols, positions, strict=True)
        ]
        frames.append("\n".join([str(len(rows)), comment, *rows]))
    return "\n".join(frames) + "\n"


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[4:] not in ([], ["instanton"]):
        sys.exit(__doc__)
    ends = [read(name, format="xyz") for name in sys.argv[1:3]]
    line = Path(sys.argv[1]).read_text().splitlines()[1]
    sys.stdout.write(text(ends[0].symbols, band(*ends, int(sys.argv[3]), len(sys.argv) == 5), line))
