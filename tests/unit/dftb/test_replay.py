"""Recorded functions: what is recorded, for which sizes, and that nobody sees the difference."""

import inspect
import logging
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.dftb.density import Diagonalisation
from deltaqmmm.dftb.purification import ChargeCycle, Purification
from deltaqmmm.dftb.replay import WARM_UPS, CUDARecorder, Replay, power_of_two, recorder_for
from tests.engines import replayed
from tests.tracing import TracingRecorder
from tests.unit.dftb.test_density import frames, posed
from tests.unit.dftb.test_engine import frame, potential

MODELS = ["dftb3", "dftb2"]


def scaled(x, y):
    return (x @ y, x.sum(-1))


def tensors(n_frames, seed=0):
    generator = np.random.default_rng(seed)
    return tuple(torch.tensor(generator.standard_normal((n_frames, 3, 3))) for _ in range(2))


def assert_plain(found, inputs):
    for one, other in zip(found, scaled(*inputs), strict=True):
        assert torch.equal(one, other)


def inputs_of_cycle(problem, excess):
    """What a purification gives to its cycle."""
    taken = []

    def cycle(*inputs):
        taken.append(inputs)
        return ChargeCycle.of(problem)(*inputs)

    Purification(Diagonalisation.of(problem), cycle)(excess)
    return taken[0]


@pytest.mark.parametrize("model", MODELS)
def test_a_replayed_cycle_is_the_cycle(monkeypatch, model):
    """Recorded with some inputs and replayed with others, all of which differ."""
    problem, excess = posed(monkeypatch, "acetate", DFTBSettings(model=model))
    recorder = TracingRecorder()
    replay = Replay(ChargeCycle.of(problem), recorder)
    others, order = inputs_of_cycle(problem, excess), torch.tensor([1, 2, 0])
    replay(*others)
    inputs = tuple(tensor[order] for tensor in others)
    assert all(not torch.equal(one, other) for one, other in zip(inputs, others, strict=True))
    expected = Purification.of(problem.select(order))(excess[order])
    found, hamiltonian, density = replay(*inputs)
    assert torch.allclose(found, expected.excess, atol=1e-13)
    assert torch.allclose(hamiltonian, expected.hamiltonian, atol=1e-13)
    assert torch.allclose(density, expected.density, atol=1e-13)
    assert (recorder.sizes, recorder.replays) == ([3], 2)


@pytest.mark.parametrize("model", MODELS)
def test_all_that_the_cycle_holds_itself_are_the_constants_of_the_molecule(monkeypatch, model):
    """It is traced without numbers, which fails where the host looks at any; its own tensors show in the trace."""
    problem, excess = posed(monkeypatch, "acetate", DFTBSettings(model=model))
    cycle = ChargeCycle.of(problem)
    trace = make_fx(cycle, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs_of_cycle(problem, excess))
    held = [getattr(trace, node.target) for node in trace.graph.nodes if node.op == "get_attr"]
    assert {id(tensor) for tensor in held} == {id(cycle.reference), id(cycle.atom_of_orbital)}


class Devices(TorchDispatchMode):
    """Notes the devices of all tensors that an operation takes or gives."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        answer = operation(*arguments, **(options or {}))
        leaves = tree_leaves((arguments, options, answer))
        self.found |= {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        return answer


def test_the_cycle_stays_on_its_device():
    """On a device without numbers, which stands for a graphics card: a copy from or to the host would show."""
    n_frames, n, o = 2, 3, 6

    def room(*shape, dtype=torch.float64):
        return torch.empty(*shape, dtype=dtype, device="meta")

    cycle = ChargeCycle(4, room(n), room(o, dtype=torch.int64))
    matrices = [room(n_frames, o, o) for _ in range(4)]
    with Devices() as devices:
        cycle(room(n_frames, n), room(n_frames, n), room(n_frames, n, n), *matrices, room(n_frames, n, n))
    assert devices.found == {"meta"}


def test_results_are_the_callers_own():
    replay = Replay(scaled, TracingRecorder())
    first = replay(*tensors(2))
    replay(*tensors(2, seed=1))
    assert_plain(first, tensors(2))
    for tensor in first:
        tensor.fill_(7.0)
    assert_plain(replay(*tensors(2, seed=2)), tensors(2, seed=2))


def test_batches_are_filled_up_to_powers_of_two_and_not_beyond_the_largest():
    recorder = TracingRecorder()
    replay = Replay(scaled, recorder)
    for n_frames in (6, 5, 3, 2, 1, 4, 6, 5, 7):
        inputs = tensors(n_frames, seed=n_frames)
        found = replay(*inputs)
        assert len(found[0]) == len(found[1]) == n_frames
        assert_plain(found, inputs)
    assert recorder.sizes == [6, 4, 2, 1, 7]
    assert recorder.replays == 9


def test_room_that_is_not_needed_holds_the_first_frame():
    """So that no frame of an earlier call, with numbers that might be none, is computed again."""
    seen = []

    def recorder(function, inputs):
        seen.append(inputs)
        return TracingRecorder()(function, inputs)

    replay = Replay(scaled, recorder)
    replay(*(torch.full_like(tensor, torch.nan) for tensor in tensors(4)))
    inputs = tensors(3)
    replay(*inputs)
    assert torch.equal(seen[0][0][3], inputs[0][0])
    assert torch.equal(seen[0][1][3], inputs[1][0])


def test_other_shapes_and_types_are_recorded_anew():
    recorder = TracingRecorder()
    replay = Replay(scaled, recorder)
    inputs = tensors(2)
    for given in (inputs, tuple(t[:, :2, :2] for t in inputs), tuple(t.float() for t in inputs), inputs):
        assert_plain(replay(*given), given)
    assert len(recorder.sizes) == 3


def test_what_was_not_used_for_longest_makes_room():
    recorder = TracingRecorder()
    replay = Replay(scaled, recorder, kept=2)
    for n_frames in (4, 2, 4, 1, 4, 2):
        replay(*tensors(n_frames))
    assert recorder.sizes == [4, 2, 1, 2]
    assert len(replay._recorded) == 2


def test_what_cannot_be_recorded_is_called_with_one_warning(caplog):
    def choosy(x, y):
        return (x if float(x.sum()) > 0.0 else y,)

    recorder = TracingRecorder()
    replay = Replay(choosy, recorder)
    for seed in (0, 1):
        inputs = tensors(2, seed)
        assert torch.equal(replay(*inputs)[0], choosy(*inputs)[0])
    assert recorder.sizes == []
    assert caplog.text.count("could not be recorded") == 1


def test_without_a_recorder_the_function_is_called():
    inputs = tensors(3)
    assert recorder_for(torch.device("cpu")) is None
    assert isinstance(recorder_for(torch.device("cuda", 0)), CUDARecorder)
    assert Replay(lambda *given: given, None)(*inputs)[0] is inputs[0]


def test_powers_of_two():
    assert [power_of_two(number) for number in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


def test_a_trajectory_by_replays():
    """Through the engine: cold and warm starts, one recording for each size of the batch that is left."""
    settings = DFTBSettings(scc_tolerance=1e-10, compiled=False, solver="purification")
    symbols = ["N", "C", "N", "C", "C", "C", "O", "O", "H", "H", "H", "H"]
    engines = [DFTBEngine(symbols, 0, settings) for _ in range(2)]
    replayed(engines[0])
    for given in frames(4):
        one, other = (engine.evaluate(*given) for engine in engines)
        assert torch.allclose(one.energies, other.energies, atol=1e-11)
        assert torch.allclose(one.gradients, other.gradients, atol=1e-9)
        assert torch.equal(one.iterations, other.iterations)
    recorder = engines[0]._choice._recorder
    assert 2 in recorder.sizes
    assert sorted(recorder.sizes) == sorted(set(recorder.sizes))
    assert recorder.replays > 2 * len(recorder.sizes)


class FakeCUDA:
    """Stands for torch.cuda and notes what is asked of it, and what is current by then."""

    def __init__(self, monkeypatch):
        self.now, self.events, self.capturing = "main", [], False
        signature = inspect.signature(torch.cuda.graph)

        def graph(*arguments, **options):
            signature.bind(*arguments, **options)
            assert options == {"stream": self.side, "capture_error_mode": "thread_local"}
            return self.capture()

        self.side = SimpleNamespace(wait_stream=lambda other: self.events.append(f"side waits for {other.name}"))
        self.side.name = "side"
        self.main = SimpleNamespace(wait_stream=lambda other: self.events.append(f"main waits for {other.name}"))
        self.main.name = "main"
        kept = SimpleNamespace(replay=lambda: self.events.append("replay"))
        replaced = {
            "CUDAGraph": lambda: kept,
            "current_stream": lambda device: self.main,
            "Stream": lambda device: self.side,
            "stream": self.on,
            "graph": graph,
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def on(self, stream):
        before, self.now = self.now, stream.name
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def capture(self):
        """Like torch's own, which restores nothing when the capture has failed."""
        self.capturing = True
        yield
        self.capturing = False

    def function(self, x):
        self.events.append(f"{'captured' if self.capturing else 'called'} on {self.now}")
        return (x,)


def test_the_order_of_a_capture(monkeypatch):
    """Of the calls only: no test without a graphics card can tell whether they do what they should."""
    cuda = FakeCUDA(monkeypatch)
    recording = CUDARecorder(torch.device("cuda"))(cuda.function, tensors(1)[:1])
    recording.replay()
    warm_up = ["called on side"] * WARM_UPS
    expected = ["side waits for main", *warm_up, "captured on side", "main waits for side", "replay"]
    assert cuda.events == expected
    assert cuda.now == "main"


def test_a_capture_that_fails_leads_back(monkeypatch):
    cuda = FakeCUDA(monkeypatch)

    def fails(x):
        if cuda.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (x,)

    with pytest.raises(RuntimeError, match="not permitted"):
        CUDARecorder(torch.device("cuda"))(fails, tensors(1)[:1])
    assert cuda.now == "main"
    assert cuda.events[-1] == "main waits for side"


@pytest.mark.gpu
def test_cuda_graphs_replay_the_cycle(caplog):
    """As above with CUDA's own recorder; other batches than the recorded ones, and frames that leave."""
    caplog.set_level(logging.INFO)
    symbols, charge, _ = frame("dihydrogen_phosphate")
    settings = DFTBSettings(scc_tolerance=1e-10, solver="purification", compiled=False)
    engine, expected = (DFTBEngine(symbols, charge, settings, device) for device in ("cuda", "cpu"))
    for step in range(6):
        positions = torch.stack([frame("dihydrogen_phosphate", seed, 0.01 * (seed + step))[2] for seed in range(5)])
        phi = torch.stack([potential(len(symbols), seed) for seed in range(5)])
        one, other = (kind.evaluate(positions, phi) for kind in (engine, expected))
        assert float((one.energies.cpu() - other.energies).abs().max()) < 1e-10
        assert torch.allclose(one.gradients.cpu(), other.gradients, atol=1e-9)
    assert "could not be recorded" not in caplog.text
    assert 1 < len(engine._choice._cycle._recorded) <= 4
