"""`deltaqmmm run` does not start with the atoms of another molecule in PLUMED's input."""

import pytest

from deltaqmmm.cases import EDIT_MARK
from deltaqmmm.cli.run_checks import check_edited
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.simulation import read_simulation

INPUT = """\
<simulation>
  <total_steps> 20 </total_steps>
  {plumed}
  <system> <initialize nbeads='1'> <file mode='xyz'> init.xyz </file> </initialize> </system>
</simulation>
"""
PLUMED = "<ffplumed name='p'> <file mode='xyz'> init.xyz </file> <plumed_dat> {} </plumed_dat> </ffplumed>"
ONE = PLUMED.format("p.dat")


@pytest.fixture
def check(tmp_path):
    def check(forcefields=ONE, **files):
        (tmp_path / "input.xml").write_text(INPUT.format(plumed=forcefields))
        for name, text in files.items():
            (tmp_path / f"{name}.dat").write_text(text)
        check_edited(tmp_path, read_simulation(tmp_path / "input.xml"))

    return check


def test_a_line_that_stands_there(check):
    marked = f"# Mine.\n{EDIT_MARK} the atoms\nDISTANCE ATOMS=1,2\n"
    with pytest.raises(InputError, match=r"p.dat: is still .* edit it \(the atoms\), and remove the line '# EDIT"):
        check(p=marked)
    check(p="# EDIT BEFORE: no\nDISTANCE ATOMS=1,2\n")
    # Files that nothing names do not count.
    check(other=marked, p="# INCLUDE FILE=other.dat\n")
    with pytest.raises(InputError, match=r"plumed.dat: is still"):
        check(ONE.replace("<plumed_dat> p.dat </plumed_dat>", ""), plumed=marked)
    check("", plumed=marked)


@pytest.mark.parametrize(
    "line", ["INCLUDE FILE=cv.dat", "here: INCLUDE FILE={cv.dat} # why", "INCLUDE ...\n  FILE=cv.dat\n..."]
)
def test_a_file_that_is_included(check, line):
    both = PLUMED.format("one.dat") + PLUMED.format("two.dat")
    # A file that includes itself ends nowhere else.
    with pytest.raises(InputError, match=r"cv.dat: is still"):
        check(both, one="PRINT FILE=x\nINCLUDE FILE=one.dat\n", two=f"{line}\n", cv=f"{EDIT_MARK} x\n")
    check(both, cv="UNITS LENGTH=A\n")
