"""The drivers of `deltaqmmm run`, how it tells its progress, and how it ends."""

import io
from types import SimpleNamespace

import pytest

from deltaqmmm.cli import run_group
from deltaqmmm.cli.main import main, make_parser
from deltaqmmm.cli.run_progress import Progress
from deltaqmmm.errors import ConfigError, ExternalToolError, InputError
from deltaqmmm.ipi.processes import End, Ending, Program
from deltaqmmm.ipi.simulation import read_simulation
from tests.unit.cli.run.inputs import ffsocket, options


class TestDrivers:
    def made(self, work, forcefields, number=1, more=""):
        simulation = work.write(forcefields)
        return run_group.make_drivers(simulation.sockets, work.config(more), "/x/", number)

    def test_one(self, work):
        (driver,) = self.made(work, ffsocket(address="here"))
        assert (driver.name, driver.log) == ("the driver", "driver.log")
        assert driver.command[-5:] == ["-u", "-a", "here", "-S", "/x/"]
        assert "--terms" not in driver.command

    def test_several(self, work):
        inet = ffsocket("dftb", mode="inet", address="0.0.0.0", more="<port> 4000 </port>")
        drivers = self.made(work, ffsocket("mm", mode="shm") + inet, number=2)
        assert [driver.name for driver in drivers] == [f"the driver {t} {n}" for t in ("mm", "dftb") for n in (1, 2)]
        assert [driver.log for driver in drivers] == [f"driver_{t}_{n}.log" for t in ("mm", "dftb") for n in (1, 2)]
        assert drivers[0].command[-7:] == ["--shm", "-a", "here", "-S", "/x/", "--terms", "mm"]
        assert drivers[2].command[-6:] == ["-a", "localhost", "-p", "4000", "--terms", "dftb"]
        # The flags are those of the command.
        for driver in drivers:
            make_parser().parse_args(list(driver.command[driver.command.index("drive") :]))

    def test_names_that_are_alike(self, work):
        drivers = self.made(work, ffsocket("a b") + ffsocket("a/b", address="there"))
        assert len({driver.log for driver in drivers}) == 2


class TestProgress:
    def watch(self, step, summary="300 K"):
        return SimpleNamespace(step=step, summary=lambda: summary)

    def test_lines_in_a_log(self):
        now, stream = [0.0], io.StringIO()
        with Progress(stream, 100, 200, clock=lambda: now[0]) as progress:
            progress.update(self.watch(-1))
            now[0] = 50.0
            # The step that it began from stands there already.
            progress.update(self.watch(100))
            progress.update(self.watch(101))
            assert stream.getvalue() == ""
            now[0] = 60.0
            progress.update(self.watch(111))
            assert stream.getvalue() == "step 111 of 200 (56%), 01:29 left, 1 s per step, 300 K\n"
            now[0] = 119.0
            progress.update(self.watch(150))
            assert stream.getvalue().count("\n") == 1
            now[0] = 121.0
            progress.update(self.watch(151, ""))
            assert stream.getvalue().endswith("\nstep 151 of 200 (76%), 01:09 left, 1.4 s per step\n")

    def test_a_bar_on_a_terminal(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        stream = Terminal()
        with Progress(stream, 100, 200) as progress:
            progress.update(self.watch(-1))
            progress.update(self.watch(150, "301 K, conserved -1.00000 Eh, drift +1e-05"))
        shown = stream.getvalue().split("\r")[-1]
        assert "150/200" in shown
        assert "301 K, conserved -1.00000 Eh, drift +1e-05" in shown
        assert shown.endswith("\n")
        stream = Terminal()
        with Progress(stream, 0, 200, quiet=True) as progress:
            progress.update(self.watch(150))
        assert stream.getvalue() == ""


class TestConclusions:
    def conclude(self, work, ending, log="", *, interrupted=False, stall="1800"):
        (work.folder / "ipi.log").write_text(log)
        made = options(work, "--stall", stall)
        found = SimpleNamespace(
            folder=work.folder,
            start=read_simulation(work.folder / "input.xml"),
            simulation=read_simulation(work.folder / "input.xml"),
            total_steps=20,
        )
        return run_group.conclude(found, made, ending, 10.0, interrupted=interrupted)

    def ending(self, work, status=0, first=0):
        return Ending(work.folder, (End(Program("i-PI", [], "ipi.log"), status, first is None),), first)

    def test_finished(self, work, capsys):
        work.checkpoint("RESTART", 20)
        assert self.conclude(work, self.ending(work)) == 0
        # Ctrl-C in the last moment changes nothing.
        assert self.conclude(work, self.ending(work, first=None), interrupted=True) == 0
        assert self.conclude(work, self.ending(work), interrupted=True) == 0
        assert capsys.readouterr().out.count("Finished: 20 steps in 10 s, step 20 of 20.") == 3

    def test_stopped(self, work, capsys):
        assert self.conclude(work, self.ending(work, first=None), interrupted=True) == 130
        assert f"Stopped at step 0 of 20; `deltaqmmm run {work.folder}` begins anew." in capsys.readouterr().out
        # A failure in that moment is one all the same.
        with pytest.raises(ExternalToolError, match="i-PI ended with status 1"):
            self.conclude(work, self.ending(work, 1), interrupted=True)

    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            ("", ""),
            ("with message: ' @SOFTEXIT: EXIT file detected. Restartable as is: YES.'", " (EXIT file detected)"),
            # What i-PI writes depends on where it finds the file.
            (
                "@simulation.run: EXIT file detected! Bye bye!\n !W! Soft exit has been requested with message: "
                "' @ SIMULATION: Exiting cleanly. I-PI reports success. Restartable as is: NO.'",
                " (EXIT file detected)",
            ),
            ("@simulation.run: Wall clock time expired! Bye bye!", " (Wall clock time expired)"),
        ],
    )
    def test_ended_by_ipi(self, work, capsys, log, reason):
        work.checkpoint("RESTART", 7)
        assert self.conclude(work, self.ending(work), log) == 0
        assert f"i-PI ended by itself at step 7 of 20{reason}; `deltaqmmm run {work.folder}`" in capsys.readouterr().out

    def test_converged(self, work, capsys):
        work.checkpoint("RESTART", 7)
        log = (
            "requested with message: 'Geometry optimization converged. Exiting simulation I-PI reports success. "
            "Restartable as is: NO.'"
        )
        assert self.conclude(work, self.ending(work), log) == 0
        said = "Finished at step 7 of 20: Geometry optimization converged. Exiting simulation.\n"
        assert capsys.readouterr().out == said

    def test_a_problem_that_ipi_reports_with_status_0(self, work):
        log = "Soft exit has been requested with message: 'x I-PI reports a problem. Restartable as is: NO.'"
        with pytest.raises(ExternalToolError, match="i-PI reports a problem and ended at step 0 of 20"):
            self.conclude(work, self.ending(work), log)

    def test_a_failure(self, work):
        work.checkpoint("run.chk", 7)
        with pytest.raises(ExternalToolError, match=r"(?s)status 3; .*reason\nAll are ended, at step 7.*\(run.chk\)"):
            self.conclude(work, self.ending(work, 3), "reason\n")

    def test_a_stall(self, work):
        with pytest.raises(ExternalToolError, match=r"nothing has happened for 60 s \(--stall\).*step 0 of 20"):
            self.conclude(work, None, stall="60")


def test_help_needs_no_numbers(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    assert "usage: deltaqmmm run" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["run", ".", "--fresh", "--continue"])
    assert ended.value.code == 2


def test_config_errors_are_input_errors():
    # The message of a configuration is shown as it is.
    assert issubclass(ConfigError, InputError)
