"""Where DFTB+ is searched, and what is said where it is not."""

import sys
from pathlib import Path

import pytest

from deltaqmmm.dftb.dftbplus import library as library_module
from deltaqmmm.dftb.dftbplus.library import VARIABLE, find_library
from deltaqmmm.errors import ExternalToolError


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """An environment without DFTB+."""
    for name in (VARIABLE, "CONDA_PREFIX", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setattr(library_module, "_installed_module", lambda: None)


def install(prefix, module=True):
    """An installation in a prefix, as conda and DFTB+'s own build lay it out."""
    library = prefix / "lib" / "libdftbplus.so"
    library.parent.mkdir(parents=True)
    library.touch()
    if module:
        file = prefix / "lib" / "python3.12" / "site-packages" / "dftbplus" / "__init__.py"
        file.parent.mkdir(parents=True)
        file.touch()
    return library


@pytest.mark.parametrize("variable", [VARIABLE, "CONDA_PREFIX", "VIRTUAL_ENV", "LD_LIBRARY_PATH"])
def test_places_of_the_environment(tmp_path, monkeypatch, variable):
    file = install(tmp_path / "env")
    monkeypatch.setenv(variable, str(tmp_path / "env" / ("lib" if variable == "LD_LIBRARY_PATH" else "")))
    found = find_library()
    assert found.file == file
    assert found.module == file.parent / "python3.12" / "site-packages" / "dftbplus" / "__init__.py"


def test_the_prefix_of_this_python(tmp_path):
    file = install(tmp_path / "python")
    assert find_library().file == file


def test_beside_an_installed_module(tmp_path, monkeypatch):
    file = install(tmp_path / "elsewhere")
    module = file.parent / "python3.12" / "site-packages" / "dftbplus" / "__init__.py"
    monkeypatch.setattr(library_module, "_installed_module", lambda: module)
    found = find_library()
    assert (found.file, found.module) == (file, module)


def test_the_configuration_goes_before_the_variable_and_that_before_the_rest(tmp_path, monkeypatch):
    files = {name: install(tmp_path / name) for name in ("config", "variable", "conda")}
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    assert find_library().file == files["conda"]
    monkeypatch.setenv(VARIABLE, str(files["variable"]))
    assert find_library().file == files["variable"]
    assert find_library(tmp_path / "config").file == files["config"]
    assert find_library(files["config"]).file == files["config"]


def test_the_module_beside_the_library_goes_before_an_installed_one(tmp_path, monkeypatch):
    file = install(tmp_path / "one")
    bare = install(tmp_path / "bare", module=False)
    other = tmp_path / "other" / "__init__.py"
    monkeypatch.setattr(library_module, "_installed_module", lambda: other)
    assert find_library(file).module != other
    assert find_library(bare).module == other


def test_what_is_missing_is_told_with_where_it_was_searched_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDA_PREFIX", "/opt/conda/envs/md")
    with pytest.raises(ExternalToolError) as caught:
        find_library()
    for words in ("/opt/conda/envs/md", str(tmp_path / "python"), "conda install -c conda-forge", VARIABLE, "[dftb]"):
        assert words in str(caught.value)


def test_a_given_place_without_it_is_an_error_and_nothing_else_is_searched(tmp_path, monkeypatch):
    install(tmp_path / "conda")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ExternalToolError, match=f"{VARIABLE} = .*nowhere is neither"):
        find_library()
    with pytest.raises(ExternalToolError, match=r"\[dftb\] library = .*empty is neither"):
        find_library(tmp_path / "empty")


def test_a_library_without_its_module_is_told(tmp_path):
    with pytest.raises(ExternalToolError, match=r"not the Python module `dftbplus`.*dftbplus-python"):
        find_library(install(tmp_path / "bare", module=False))


@pytest.mark.parametrize(
    ("place", "text", "version"),
    [
        ("lib/pkgconfig/dftbplus.pc", "Name: dftbplus\nVersion: 25.1\n", "25.1"),
        ("conda-meta/dftbplus-24.1-nompi_h123_0.json", "{}", "24.1"),
        ("unrelated", "", "unknown"),
    ],
)
def test_the_version_is_told_by_what_was_installed(tmp_path, place, text, version):
    file = install(tmp_path / "env")
    record = tmp_path / "env" / place
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(text)
    assert find_library(file).version == version


@pytest.mark.parametrize("place", ["lib/pkgconfig/dftbplus.pc", "conda-meta/dftbplus-24.1-nompi_h123_0.json"])
def test_the_version_is_found_where_the_library_is_a_link(tmp_path, place):
    file = install(tmp_path / "env")
    record = tmp_path / "env" / place
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("Version: 24.1\n")
    link = tmp_path / "links" / "lib" / file.name
    link.parent.mkdir(parents=True)
    link.symlink_to(file)
    (link.parent / "python3.12").symlink_to(file.parent / "python3.12")
    assert find_library(link).version == "24.1"


def test_the_library_that_is_here_has_a_version(request):
    """Where DFTB+ is: its own files are as this module expects them."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.undo()
    library = request.getfixturevalue("dftbplus")
    assert library.version != "unknown"
    assert Path(library.module).is_file()
