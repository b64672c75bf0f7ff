"""Made model_v4.safetensors and model_v4.json, once: what is read by later releases must not be written again.

Run from the repository root: python -m tests.unit.ml.data.make_model_v4 FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deltaqmmm.ml import COULOMB, RadialFunction, save_model
from tests.unit.ml.helpers import (
    FORMALDEHYDE,
    SITE_CHARGES,
    SITE_SYMBOLS,
    SITE_TYPES,
    make_frames,
    make_model,
    small_functions,
)


def main(folder: Path) -> None:
    functions = small_functions(
        qm_radial=(RadialFunction("g2", eta=0.4, shift=2.1),),
        angular_radial=(RadialFunction("g2", eta=0.1, shift=1.9),),
        angular_order=2,
        mm_radial=(COULOMB,),
        mm_near_radial=(RadialFunction("g1"), RadialFunction("g2", eta=0.1, shift=0.5)),
    )
    model = make_model(functions, elements=("C", "H", "O"), mm_types=("H", "O"), n_members=2, hidden=(4,))
    qm, mm, charges, sites = frames = make_frames(n_frames=2, n_sites=5)
    correction = model.bind(FORMALDEHYDE, SITE_SYMBOLS[:6], SITE_TYPES[:6], SITE_CHARGES[:6])
    result = correction.evaluate(*frames)
    save_model(folder / "model_v4.safetensors", model)
    content = {
        "qm_symbols": FORMALDEHYDE,
        "site_symbols": SITE_SYMBOLS[:6],
        "site_types": SITE_TYPES[:6],
        "site_charges": SITE_CHARGES[:6].tolist(),
        "qm_positions": qm.tolist(),
        "mm_positions": mm.tolist(),
        "mm_charges": charges.tolist(),
        "mm_sites": sites.tolist(),
        "energies": result.energies.tolist(),
        "qm_gradients": result.qm_gradients.tolist(),
        "mm_gradients": result.mm_gradients.tolist(),
        "charge_gradients": result.charge_gradients.tolist(),
    }
    (folder / "model_v4.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
