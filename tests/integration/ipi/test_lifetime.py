"""Who starts first, who dies, who stops whom: a real i-PI and a driver process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.integration.ipi.server import (
    INIT,
    IpiServer,
    evaluations,
    ffdirect,
    ffsocket,
    free_port,
    make_input,
    toy_client,
    unique_name,
    wait_until,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

STEPS, BEADS = 6, 4
SLOW = ("--sleep", "0.4")
LONG = 100_000


def _run_undisturbed(folder, steps=STEPS):
    name = unique_name("plain")
    with (
        IpiServer(folder, make_input(ffsocket("unix", name), steps=steps, beads=BEADS)) as server,
        toy_client(folder, "-u", "-a", name) as client,
    ):
        assert server.wait(60) == 0, server.output
        assert client.wait(30) == 0, client.output
        return server.properties()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return _run_undisturbed(tmp_path_factory.mktemp("undisturbed"))


def _assert_same(properties, reference):
    assert properties.keys() == reference.keys()
    for key, values in reference.items():
        np.testing.assert_allclose(properties[key], values, rtol=0.0, atol=1e-12, err_msg=key)


def test_client_before_server(tmp_path, undisturbed):
    """The driver waits for a socket that does not exist, says so, and finds it in a folder of the user's choice."""
    name, prefix = unique_name("early"), f"/tmp/deltaqmmm_{os.getpid()}_prefix_"
    with toy_client(tmp_path, "-u", "-a", name, "-S", prefix) as client:
        client.wait_for_output("Waiting up to 30 s for i-PI at unix socket " + prefix, 30)
        time.sleep(0.5)
        xml = make_input(ffsocket("unix", name), steps=STEPS, beads=BEADS)
        with IpiServer(tmp_path, xml, flags=["-S", prefix]) as server:
            assert server.wait(60) == 0, server.output
            assert client.wait(30) == 0, client.output
            _assert_same(server.properties(), undisturbed)
    assert f"i-PI sent EXIT after {BEADS * (STEPS + 1)} steps" in client.output


def test_early_client_over_inet(tmp_path, undisturbed):
    port = free_port()
    with toy_client(tmp_path, "-a", "localhost", "-p", str(port)) as client:
        client.wait_for_output("Waiting up to 30 s", 30)
        with IpiServer(tmp_path, make_input(ffsocket("inet", port=port), steps=STEPS, beads=BEADS)) as server:
            assert server.wait(60) == 0, server.output
            assert client.wait(30) == 0, client.output
            _assert_same(server.properties(), undisturbed)


@pytest.mark.parametrize("mode", ["unix", "inet", "shm"])
def test_server_killed_in_mid_step(tmp_path, mode):
    """SIGKILL while the driver computes: it ends by itself, with status 0 and one message."""
    name, port = unique_name("killed"), free_port()
    where = ["-a", "localhost", "-p", str(port)] if mode == "inet" else ["--shm" if mode == "shm" else "-u", "-a", name]
    element = ffsocket(mode, "localhost" if mode == "inet" else name, port=port, batch_size=4)
    with (
        IpiServer(tmp_path, make_input(element, steps=LONG, beads=BEADS)) as server,
        toy_client(tmp_path, *where, *SLOW) as client,
    ):
        wait_until(lambda: len(evaluations(tmp_path)) >= 3, 30, "the third evaluation")
        server.kill()
        assert client.wait(10) == 0, client.output
    last = client.output.splitlines()[-1]
    assert last.startswith("i-PI closed the connection ("), client.output
    assert "Traceback" not in client.output


def test_idle_client_notices_the_death_of_the_server(tmp_path):
    """SIGSTOP makes the server silent: the driver waits without using the processor. SIGKILL ends it."""
    name = unique_name("idle")
    with (
        IpiServer(tmp_path, make_input(ffsocket("unix", name), steps=LONG, beads=1)) as server,
        toy_client(tmp_path, "-u", "-a", name) as client,
    ):
        wait_until(lambda: len(evaluations(tmp_path)) >= 3, 30, "the third evaluation")
        server.signal(signal.SIGSTOP)
        time.sleep(0.3)
        before = client.cpu_seconds()
        time.sleep(1.0)
        assert client.running
        assert client.cpu_seconds() - before < 0.1
        server.kill()
        assert client.wait(5) == 0, client.output


@pytest.mark.parametrize(("mode", "batch_size"), [("unix", 1), ("unix", 4), ("shm", 4)])
def test_killed_client_is_replaced(tmp_path, undisturbed, mode, batch_size):
    """SIGKILL the driver while it computes; a new one takes over and the trajectory is as if nothing had happened."""
    name = unique_name("replaced")
    flag = "--shm" if mode == "shm" else "-u"
    xml = make_input(ffsocket(mode, name, batch_size=batch_size), steps=STEPS, beads=BEADS)
    with IpiServer(tmp_path, xml) as server:
        with toy_client(tmp_path, flag, "-a", name, *SLOW, output="first.log") as first:
            wait_until(lambda: len(evaluations(tmp_path, "first.log")) >= 3, 30, "the third evaluation")
            time.sleep(0.1)  # the evaluation sleeps for 0.4 s
            first.kill()
        with toy_client(tmp_path, flag, "-a", name, output="second.log") as second:
            assert server.wait(60) == 0, server.output
            assert second.wait(30) == 0, second.output
        _assert_same(server.properties(), undisturbed)


def test_reconnect_to_a_new_server(tmp_path, undisturbed):
    """With a reconnect limit the driver outlives the server, serves the next one, and ends at its EXIT."""
    name = unique_name("again")
    with toy_client(tmp_path, "-u", "-a", name, "--reconnect", "30", "--sleep", "0.05") as client:
        with IpiServer(tmp_path / "one", make_input(ffsocket("unix", name), steps=LONG, beads=BEADS)) as server:
            wait_until(lambda: len(evaluations(tmp_path)) >= 5, 30, "the fifth evaluation")
            server.kill()
        client.wait_for_output("Lost the connection to i-PI", 10)
        xml = make_input(ffsocket("unix", name, batch_size=4), steps=STEPS, beads=BEADS)
        with IpiServer(tmp_path / "two", xml) as server:
            assert server.wait(60) == 0, server.output
            _assert_same(server.properties(), undisturbed)
        assert client.wait(30) == 0, client.output
    assert "i-PI sent EXIT" in client.output.splitlines()[-1]


def test_reconnect_gives_up(tmp_path):
    name = unique_name("lost")
    with (
        IpiServer(tmp_path, make_input(ffsocket("unix", name), steps=LONG, beads=BEADS)) as server,
        toy_client(tmp_path, "-u", "-a", name, "--reconnect", "1") as client,
    ):
        wait_until(lambda: len(evaluations(tmp_path)) >= 3, 30, "the third evaluation")
        server.kill()
        begin = time.monotonic()
        assert client.wait(10) == 0, client.output
        assert time.monotonic() - begin < 4.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["waiting for a server", "idle", "computing"])
def test_signals_end_the_client(tmp_path, number, state):
    """Exit status 128 + number, at once or after the running evaluation; i-PI gives the bead to another driver."""
    name = unique_name("signal")
    computing = state == "computing"
    with toy_client(tmp_path, "-u", "-a", name, *(("--sleep", "1.0") if computing else ())) as client:
        if state == "waiting for a server":
            client.wait_for_output("Waiting up to", 30)
            client.signal(number)
            assert client.wait(2) == 128 + number, client.output
            return
        with IpiServer(tmp_path, make_input(ffsocket("unix", name), steps=2 if computing else LONG, beads=1)) as server:
            wait_until(lambda: len(evaluations(tmp_path)) >= 2, 30, "the second evaluation")
            if computing:
                time.sleep(0.2)
            else:
                server.signal(signal.SIGSTOP)  # so that no evaluation is under way
                time.sleep(0.3)
            client.signal(number)
            assert client.wait(3) == 128 + number, client.output
            assert f"Stopped by signal {int(number)} after" in client.output
            assert "Traceback" not in client.output
            if computing:
                assert "after 1 step." in client.output, "the second evaluation must have been dropped"
                with toy_client(tmp_path, "-u", "-a", name, output="next.log"):
                    assert server.wait(30) == 0, server.output
                assert len(server.properties()["step"]) == 3


def test_second_signal_interrupts_a_computation(tmp_path):
    name = unique_name("urgent")
    with (
        IpiServer(tmp_path, make_input(ffsocket("unix", name), steps=LONG, beads=1)),
        toy_client(tmp_path, "-u", "-a", name, "--sleep", "60") as client,
    ):
        wait_until(lambda: len(evaluations(tmp_path)) >= 1, 30, "the first evaluation")
        client.signal(signal.SIGINT)
        time.sleep(0.3)
        assert client.running
        client.signal(signal.SIGINT)
        assert client.wait(3) == 130, client.output
        assert "Traceback" not in client.output


def test_ipi_stops_by_its_own_exit_file(tmp_path):
    """i-PI's EXIT file: the driver gets EXIT while or after it computes, and ends with status 0."""
    name = unique_name("exitfile")
    with (
        IpiServer(tmp_path, make_input(ffsocket("unix", name), steps=LONG, beads=2)) as server,
        toy_client(tmp_path, "-u", "-a", name, "--sleep", "0.05") as client,
    ):
        wait_until(lambda: len(evaluations(tmp_path)) >= 3, 30, "the third evaluation")
        Path(tmp_path / "EXIT").touch()
        assert client.wait(20) == 0, client.output
        assert server.wait(20) == 0, server.output
    assert "i-PI sent EXIT" in client.output


def test_no_shared_memory_is_left(tmp_path):
    """i-PI removes its segments at a normal end: the driver must neither remove them first nor keep them."""
    name = unique_name("segments")
    with (
        IpiServer(tmp_path, make_input(ffsocket("shm", name), steps=2, beads=1)) as server,
        toy_client(tmp_path, "--shm", "-a", name) as client,
    ):
        assert server.wait(60) == 0, server.output
        assert client.wait(30) == 0, client.output
        assert list(Path("/dev/shm").glob(f"ipi_shm_{server.pid}_*")) == []
        assert "resource_tracker" not in server.output + client.output


def test_no_server_within_the_limit(tmp_path):
    with toy_client(tmp_path, "-u", "-a", unique_name("nobody"), "--wait", "1") as client:
        assert client.wait(20) == 1
    assert "ServerUnavailableError: No i-PI server at unix socket" in client.output
    assert "within 1 s: the socket does not exist" in client.output


def test_wrong_atom_count_names_both_and_leaves_ipi_alive(tmp_path, undisturbed):
    """The driver of another system ends with an error and sends nothing; i-PI goes on waiting for the right one."""
    name = unique_name("count")
    with IpiServer(tmp_path, make_input(ffsocket("unix", name), steps=STEPS, beads=BEADS)) as server:
        with toy_client(tmp_path, "-u", "-a", name, "--atoms", "4", output="wrong.log") as wrong:
            assert wrong.wait(30) == 1, wrong.output
        assert "ProtocolError: i-PI sent 3 atoms, but the topology has 4." in wrong.output
        assert evaluations(tmp_path, "wrong.log") == []
        with toy_client(tmp_path, "-u", "-a", name) as client:
            assert server.wait(60) == 0, server.output
            assert client.wait(30) == 0, client.output
        _assert_same(server.properties(), undisturbed)


@pytest.mark.parametrize(("server_mode", "flag", "advice"), [("shm", "-u", "--shm"), ("unix", "--shm", "mode='shm'")])
def test_mode_mismatch_is_explained(tmp_path, server_mode, flag, advice):
    """Nothing on the wire negotiates shared memory: a mismatch must not leave both sides waiting for each other."""
    name = unique_name("mismatch")
    with (
        IpiServer(tmp_path, make_input(ffsocket(server_mode, name), steps=2, beads=1)),
        toy_client(tmp_path, flag, "-a", name) as client,
    ):
        assert client.wait(30) == 1, client.output
    assert client.output.splitlines()[-1].startswith("ProtocolError: ")
    assert advice in client.output
    assert evaluations(tmp_path) == []


@pytest.mark.parametrize("threaded", [False, True])
def test_errors_in_ffdirect_end_ipi(tmp_path, threaded):
    """Four atoms for a potential of three: i-PI shows the message and ends."""
    init = INIT.replace("3\n", "4\n", 1) + "H 6.0 1.0 1.0\n"
    pes = Path(__file__).with_name("toy_pes.py")
    xml = make_input(ffdirect(pes, threaded=threaded), steps=2, beads=1, positions=False)
    with IpiServer(tmp_path, xml, init=init) as server:
        status = server.wait(30)
    assert "FrameError: The frame has 4 atoms, but the topology has 3." in server.output
    # With threads the driver asks i-PI for a soft exit, whose status is 0; otherwise i-PI would wait for ever.
    assert (status == 0) == threaded
