"""The driver inside i-PI: the same simulation as over a socket."""

import numpy as np

from tests.integration.inputs.case import make, run
from tests.integration.ipi.server import read_properties


def test_inside_is_as_over_a_socket(tmp_path):
    inside, outside = make("ffdirect", tmp_path, beads=2, steps=3), make("pimd", tmp_path, beads=2, steps=3)
    # The same settings but for the force field, whatever else the other case shows.
    text = (inside / "input.xml").read_text()
    begin, end = text.index("<ffdirect"), text.index("</ffdirect>") + len("</ffdirect>")
    other = (outside / "input.xml").read_text()
    socket = other[other.index("<ffsocket") : other.index("</ffsocket>") + len("</ffsocket>")]
    (outside / "input.xml").write_text(text[:begin] + socket + text[end:])
    for folder in (inside, outside):
        config = folder / "config.toml"
        config.write_text(config.read_text().replace('platform = "CPU"', 'platform = "Reference"'))
        run(folder)
    assert not (inside / "driver.log").exists()
    one, two = read_properties(inside / "run.out"), read_properties(outside / "run.out")
    assert list(one["step"]) == [0, 1, 2, 3]
    # As many digits as i-PI writes.
    for name in ("potential", "conserved", "kinetic_cv"):
        np.testing.assert_allclose(one[name], two[name], rtol=0, atol=2e-7, err_msg=name)
    for bead in (0, 1):
        charges = [np.loadtxt(folder / f"run.qm_charges_{bead}") for folder in (inside, outside)]
        assert charges[0].shape == (4, 12)
        np.testing.assert_allclose(*charges, rtol=0, atol=1e-6)
