"""What the driver does with messages and frames that are nonsense: one clear error, and nothing sent.

A scripted server plays the malformed side; everything well-formed is tested against the real i-PI.
"""

from __future__ import annotations

import numpy as np
import pytest

from deltaqmmm.errors import ConvergenceError, FrameError, NonFiniteError, ProtocolError
from deltaqmmm.ipi import ClientSettings, EndReason
from deltaqmmm.results import Evaluation
from tests.integration.ipi import toy_potential
from tests.integration.ipi.scripted import (
    ALLOWED,
    COLUMNS,
    GREETING,
    POSITIONS,
    assert_error,
    header,
    init,
    int32,
    never,
    posdata,
    run,
)


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        pytest.param([b"HELLO       "], ["HELLO", "unknown message"], id="unknown header"),
        pytest.param([header("FORCEREADY")], ["FORCEREADY", "unknown message"], id="header of the other side"),
        pytest.param([header("status")], ["unknown message"], id="lower case"),
        pytest.param([b"POSD"], ["4 of the 12 bytes of a message header", "truncated"], id="half a header"),
        pytest.param([posdata()[:100]], ["of the cell", "truncated"], id="half a cell"),
        pytest.param(
            [posdata()[:-8]], ["64 of the 72 bytes of the positions", "truncated"], id="half of the positions"
        ),
        pytest.param([init("abc", length=5)], ["3 of the 5 bytes of the INIT string"], id="half an INIT"),
        pytest.param([init(length=-1)], ["-1 bytes", "INIT"], id="negative INIT"),
        pytest.param([init(length=2**30)], [str(2**30), "INIT"], id="giant INIT"),
        pytest.param([init(" batch_size:many")], ["batch_size:many"], id="batch size not a number"),
        pytest.param([init(" batch_size:0")], ["batch_size:0"], id="no batch size"),
        pytest.param([posdata(count=-4)], ["-4 atoms", "has 3"], id="negative number of atoms"),
        pytest.param([posdata(count=2**31 - 1)], [f"{2**31 - 1} atoms", "has 3"], id="giant number of atoms"),
        pytest.param([posdata(POSITIONS[:2])], ["2 atoms", "has 3", "same order"], id="other number of atoms"),
        pytest.param([header("GETFORCE")], ["GETFORCE without POSDATA"], id="nothing to get"),
    ],
)
def test_malformed_messages(address, script, texts):
    result, sent, _ = run(address, [*GREETING, *script])
    assert_error(result, ProtocolError, *texts)
    assert sent == ALLOWED


@pytest.mark.parametrize("script", [[posdata()[:60]], [b"POSDA"], [init("abc", length=5)]])
def test_messages_that_stall(address, script):
    result, sent, seconds = run(address, [*GREETING, *script], hang=True)
    assert_error(result, ProtocolError, "nothing more for 0.5 s")
    assert sent == ALLOWED
    assert seconds < 3.0


def test_posdata_before_init(address):
    result, sent, _ = run(address, [header("STATUS"), "NEEDINIT", posdata()])
    assert_error(result, ProtocolError, "POSDATA before INIT")
    assert sent == header("NEEDINIT")


def test_shared_memory_that_does_not_exist(address):
    names = b"".join(int32(12) + f"ipi_shm_0_{kind:>2.2}".encode() for kind in ("po", "h", "ih", "pt", "f", "v"))
    settings = ClientSettings(shared_memory=True, wait_seconds=5.0)
    result, sent, _ = run(address, [*GREETING, header("POSDATA") + int32(3) + names], settings=settings)
    assert_error(result, ProtocolError, "ipi_shm_0_po", "cannot be opened", "same machine")
    assert sent == ALLOWED


# frames and results that are no numbers


def _poisoned(array, index, value=np.nan):
    poisoned = np.array(array, dtype=float)
    poisoned[index] = value
    return poisoned


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        pytest.param(posdata(_poisoned(POSITIONS, (2, 1))), ["atom 2", "not finite"], id="position"),
        pytest.param(posdata(_poisoned(POSITIONS, (0, 0), np.inf)), ["atom 0", "not finite"], id="infinite position"),
        pytest.param(posdata(columns=_poisoned(COLUMNS, (0, 1))), ["cell", "not finite"], id="cell"),
        pytest.param(posdata(columns=np.ones((3, 3))), ["cell", "singular"], id="singular cell"),
        pytest.param(posdata(columns=np.zeros((3, 3))), ["cell", "singular"], id="no cell"),
    ],
)
@pytest.mark.parametrize("question", [header("GETFORCE"), header("STATUS"), b""])
def test_bad_frames(address, message, texts, question):
    result, sent, _ = run(address, [*GREETING, message + question], evaluate=never, hang=True)
    assert_error(result, FrameError, *texts)
    assert sent == ALLOWED


def test_molecules_need_a_finite_cell(address):
    message = posdata(columns=_poisoned(COLUMNS, (0, 0)))
    result, sent, _ = run(address, [*GREETING, message + header("GETFORCE")], evaluate=never, periodic=False, hang=True)
    assert_error(result, FrameError, "cell", "not finite")
    assert sent == ALLOWED


def test_molecules_need_no_cell(address):
    """ASE sends zeros for the cell of a molecule."""
    script = [*GREETING, posdata(columns=np.zeros((3, 3))) + header("GETFORCE"), "FORCEREADY"]
    result, sent, _ = run(address, script, periodic=False)
    assert result.reason is EndReason.CLOSED
    assert len(sent) > len(ALLOWED) + 8 + 4 + 72 + 72


def _spoiled(field, **changes):
    def evaluate(cells, positions):
        good = toy_potential.evaluate(cells, positions)
        values = {
            "energies": good.energies,
            "forces": good.forces,
            "strain_derivatives": good.strain_derivatives,
            "terms": dict(good.terms),
            "extras": dict(good.extras),
        }
        if field in values:
            values[field] = _poisoned(values[field], (0,) * values[field].ndim)
        else:
            group, key = field.split(".")
            values[group][key] = _poisoned(values[group][key], 0, np.inf)
        return Evaluation(**values)

    return evaluate


@pytest.mark.parametrize("field", ["energies", "forces", "strain_derivatives", "terms.wells", "extras.qm_charges"])
@pytest.mark.parametrize("question", [header("GETFORCE"), header("STATUS")])
def test_nothing_non_finite_is_sent(address, field, question):
    result, sent, _ = run(address, [*GREETING, posdata() + question], evaluate=_spoiled(field), hang=True)
    assert_error(result, NonFiniteError, "frame 0", "nothing was sent")
    assert sent == ALLOWED


def test_errors_of_the_evaluation_pass_through(address):
    def evaluate(cells, positions):
        raise ConvergenceError("SCC")

    result, sent, _ = run(address, [*GREETING, posdata() + header("GETFORCE")], evaluate=evaluate, hang=True)
    assert_error(result, ConvergenceError, "SCC")
    assert sent == ALLOWED
