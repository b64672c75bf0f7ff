from deltaqmmm.cli.console import formula, table


def test_table_aligns_its_columns():
    text = table(["term", "hartree"], [["mm", "-1.5"], ["dftb", "-100.25"]], indent="")
    assert text == "term  hartree\n----  -------\nmm       -1.5\ndftb  -100.25"


def test_formula_in_hill_order():
    assert formula(["O", "H", "N", "C", "C", "H"]) == "C2 H2 N O"
    assert formula(["O", "H", "H"]) == "H2 O"
    assert formula(["H", "Br", "C"]) == "C H Br"
