"""`deltaqmmm info` of model files; of datasets see the tests of `deltaqmmm label`."""

from pathlib import Path

import pytest

from deltaqmmm.cli.main import main

EXAMPLE = Path(__file__).parents[3] / "examples" / "uracil_water"


def test_a_model_says_what_it_corrects_what_it_knows_and_how_good_it_is(capsys):
    assert main(["info", str(EXAMPLE / "delta.safetensors")]) == 0
    printed = capsys.readouterr().out
    words = ("reference - baseline (delta)", "4, of", "functional pbe0", "model dftb3", "MM sites 14", "64 test frames")
    words += ("mm_gradient_cutoff_angstrom 14",)
    assert [word for word in words if word not in printed] == []
    table = printed[printed.index("errors on") :].splitlines()
    assert [line.split("  ")[1] for line in table[2:4]] == ["DFTB3-D3, uncorrected", "Delta"]


def test_a_direct_model_says_so(capsys):
    main(["info", str(EXAMPLE / "direct.safetensors")])
    assert "in place of the baseline" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_file_that_is_no_model_is_refused(tmp_path, capsys, content):
    file = tmp_path / "x.safetensors"
    if content is not None:
        file.write_bytes(content)
    assert main(["info", str(file)]) != 0
    assert str(file) in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path, capsys):
    for place in (tmp_path / "mine", tmp_path):
        assert main(["info", str(place)]) != 0
        assert f"{place}: there is no such file; give a dataset" in capsys.readouterr().err
