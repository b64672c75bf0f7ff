import argparse
import subprocess
import sys

import pytest

from deltaqmmm.cli import keys
from deltaqmmm.cli.main import main, make_parser
from deltaqmmm.errors import ConfigError
from deltaqmmm.version import __version__

COMMANDS = ["build", "check", "compare", "config", "drive", "evaluate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: deltaqmmm {command}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command}" in text


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"deltaqmmm {__version__}"


@pytest.mark.parametrize("arguments", [[], ["drvie"], ["drive"], ["evaluate", "a", "b"], ["drive", "a", "--bogus"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "absent.toml"],
        ["drive", "absent.toml", "-u", "-a", "x"],
        ["check", "absent.toml"],
        ["evaluate", "absent.toml", "frames.xyz", "-o", "out.xyz"],
    ],
)
def test_an_error_is_one_message_and_status_1(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"deltaqmmm {arguments[0]}: absent.toml: no such configuration file. `deltaqmmm build` writes one.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback():
    with pytest.raises(ConfigError):
        main(["config", "absent.toml", "--debug"])


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch):
    def run(options: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(keys, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["config"])


def test_interrupt(monkeypatch, capsys):
    def run(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(keys, "run", run)
    assert main(["config"]) == 130
    assert capsys.readouterr().err == "deltaqmmm config: interrupted.\n"


def test_config_explains_the_keys(capsys):
    assert main(["config"]) == 0
    assert "outer_angstrom" in capsys.readouterr().out


def test_config_checks_a_file(tmp_path, capsys):
    (tmp_path / "a.prmtop").touch()
    file = tmp_path / "config.toml"
    file.write_text('[system]\ntopology = "a.prmtop"\n[qm]\natoms = "0-2"\n')
    assert main(["config", str(file)]) == 0
    assert "can be used" in capsys.readouterr().out
    file.write_text('[system]\ntopologie = "a.prmtop"\n[qm]\natoms = "0-2"\n')
    assert main(["config", str(file)]) == 1
    assert "did you mean 'topology'?" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_openmm():
    code = (
        "import sys\n"
        "from deltaqmmm.cli.main import make_parser\n"
        "make_parser()\n"
        "print(sorted({'torch', 'openmm', 'rdkit'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_output_into_a_pipe_that_closes_leaves_no_traceback():
    code = "from deltaqmmm.cli.main import main; import sys; sys.exit(main(['config']))"
    command = f'"{sys.executable}" -c "{code}" | head -1'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in result.stderr
    assert result.stdout.startswith("Paths are relative")


def test_parser_can_be_made_twice():
    assert make_parser().prog == make_parser().prog == "deltaqmmm"
