import io

import pytest

from deltaqmmm.cli.drive import StatusLine, client_settings, make_address
from deltaqmmm.cli.main import make_parser
from deltaqmmm.config import read_config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi import InetAddress, StepReport, UnixAddress


def options(*words):
    return make_parser().parse_args(["drive", "config.toml", *words])


@pytest.fixture
def config(tmp_path):
    (tmp_path / "a.prmtop").touch()
    file = tmp_path / "config.toml"
    file.write_text(
        '[system]\ntopology = "a.prmtop"\n[qm]\natoms = "0"\n[driver]\nwait_seconds = 7\nreconnect_seconds = 3\n'
    )
    return read_config(file)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-u", "-a", "uracil"], UnixAddress("uracil", "/tmp/ipi_")),
        (["--shm", "-a", "uracil"], UnixAddress("uracil", "/tmp/ipi_")),
        (["-u", "-a", "uracil", "-S", "/scratch/ipi_"], UnixAddress("uracil", "/scratch/ipi_")),
        (["-u", "-a", "uracil", "-S", ""], UnixAddress("uracil", "")),
        (["-a", "node17", "-p", "4000"], InetAddress("node17", 4000)),
        ([], InetAddress("localhost", 31415)),
    ],
)
def test_addresses_as_ipi_writes_them(words, expected):
    assert make_address(options(*words)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-u", "-a", "x", "-p", "4000"], "-p names a port"),
        (["-a", "x", "-S", "/scratch/ipi_"], "-S is the path before the name of a unix socket"),
        (["-a", "x", "-p", "70000"], "70000"),
        (["-u", "-a", "x" * 200], "107"),
    ],
)
def test_addresses_that_cannot_be_meant(words, expected):
    with pytest.raises(InputError, match=expected):
        make_address(options(*words))


def test_flags_come_before_the_configuration(config):
    assert client_settings(options("-u"), config).wait_seconds == 7
    assert client_settings(options("-u"), config).reconnect_seconds == 3
    given = client_settings(options("--shm", "--wait", "2", "--reconnect", "0"), config)
    assert (given.wait_seconds, given.reconnect_seconds, given.shared_memory) == (2, 0, True)
    assert client_settings(options("-u"), config).shared_memory is False


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_times_that_cannot_be_meant(config, seconds):
    with pytest.raises(InputError, match="--wait"):
        client_settings(options(f"--wait={seconds}"), config)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--terms", "correction"], ("correction",)),
        (["--terms", "MM, dftb"], ("mm", "dftb")),
        (["--terms", ""], ()),
    ],
)
def test_terms(words, expected):
    assert options(*words).terms == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def serve(line, clock, steps, seconds_each):
    for step in range(1, steps + 1):
        clock.now += seconds_each
        line.update(StepReport(step, 4, 3, 0.25 * seconds_each, 0.75 * seconds_each))


def test_status_line_on_a_terminal_rewrites_itself():
    stream, clock = Terminal(), Clock()
    line = StatusLine(stream, interval=10.0, clock=clock)
    serve(line, clock, 4, 4.0)
    # After 12 of 16 s: three steps of 3 s computing and 1 s waiting.
    assert stream.getvalue() == (
        "\r3 steps, 9 frames (and 3 of padding), 3000.0 ms per step, 1000.0 ms per frame, 25% waiting for i-PI\x1b[K"
    )
    line.finish()
    assert stream.getvalue().count("\r") == 2
    assert stream.getvalue().endswith("\n")


def test_status_lines_in_a_log_come_once_a_minute():
    stream, clock = io.StringIO(), Clock()
    line = StatusLine(stream, interval=10.0, clock=clock)
    serve(line, clock, 31, 4.0)
    lines = stream.getvalue().splitlines()
    assert [text.split(",")[0] for text in lines] == ["15 steps", "30 steps"]
    assert "\x1b" not in stream.getvalue()


def test_quiet_writes_nothing_and_so_does_a_run_without_steps():
    stream, clock = Terminal(), Clock()
    silent = StatusLine(stream, interval=1.0, enabled=False, clock=clock)
    serve(silent, clock, 5, 4.0)
    silent.finish()
    StatusLine(stream, interval=1.0, clock=clock).finish()
    assert stream.getvalue() == ""
