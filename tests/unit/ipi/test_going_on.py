"""`python -m deltaqmmm.ipi.going_on`: what a script gives to i-PI, with outputs that fit it."""

import os

import pytest

from deltaqmmm.ipi.going_on import main

XML = """<simulation>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ step, potential ] </properties>
    <checkpoint filename='checkpoint' stride='2' overwrite='True'/>
  </output>
  {step}<total_steps> 100 </total_steps>
  <system> </system>
</simulation>
"""
HEAD = "# column   1     --> step : The current simulation time step.\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One in which six steps were made, and nothing says where to go on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.xml").write_text(XML.format(step=""))
    (tmp_path / "run.out").write_text(HEAD + "".join(f" {step} -1.0\n" for step in range(7)))
    return tmp_path


def checkpoint(folder, name, step, age):
    file = folder / name
    file.write_text(XML.format(step=f"<step> {step} </step>"))
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def test_the_newest_checkpoint_and_outputs_cut_back_to_it(folder, capsys):
    checkpoint(folder, "RESTART", 2, age=9)
    checkpoint(folder, "run.checkpoint", 4, age=1)
    assert main(["input.xml"]) == 0
    said = capsys.readouterr()
    assert said.out == "run.checkpoint\n"
    assert said.err == "What is later than step 4 in run.out now stands in before_1/.\n"
    assert (folder / "run.out").read_text() == HEAD + "".join(f" {step} -1.0\n" for step in range(5))
    assert (folder / "before_1" / "run.out").read_text() == " 5 -1.0\n 6 -1.0\n"
    # Nothing more is cut from outputs that fit.
    assert main(["input.xml"]) == 0
    assert capsys.readouterr().err == ""
    assert not (folder / "before_2").exists()


def test_a_checkpoint_that_is_cut_short_is_passed_over(folder, capsys):
    checkpoint(folder, "run.checkpoint.kept", 2, age=5)
    checkpoint(folder, "run.checkpoint", 4, age=1).write_text("<simulation>")
    assert main(["input.xml"]) == 0
    said = capsys.readouterr()
    assert said.out == "run.checkpoint.kept\n"
    assert "run.checkpoint is cut short, and left out." in said.err
    assert (folder / "run.out").read_text().endswith(" 2 -1.0\n")


def test_the_input_where_there_is_no_checkpoint(folder, capsys):
    before = (folder / "run.out").read_text()
    assert main(["input.xml"]) == 0
    assert capsys.readouterr().out == "input.xml\n"
    # i-PI sets these aside itself.
    assert (folder / "run.out").read_text() == before


def test_errors_are_one_message(folder, capsys):
    assert main(["absent.xml"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "absent.xml" in said.err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
