"""Functions of tensors whose kernels are recorded once and replayed: on a CUDA device by CUDA graphs.

A small molecule's kernels take less time than their launches by the host. A replay launches all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]

KEPT = 12
"""Recordings kept. Each holds memory for its inputs, outputs and all between; see `Replay` for how many there are."""
WARM_UPS = 3
"""Calls before a capture, in which libraries make what they make at first use (three in torch's own examples)."""


@dataclass(frozen=True)
class Recording:
    """What a function does with certain tensors.

    Attributes:
        replay: Does it once more, on what the inputs hold by then.
        outputs: Where it leaves the results.
    """

    replay: Callable[[], None]
    outputs: Tensors


class Recorder(Protocol):
    """What records a function."""

    def __call__(self, function: Function, inputs: Tensors) -> Recording:
        """Record a function of these very tensors.

        Raises:
            RuntimeError: It does what cannot be recorded.
        """


class CUDARecorder:
    """Records by CUDA graphs.

    Warm-up and capture share a stream of their own: handles and workspaces of the libraries belong to a stream.
    Only what this thread does may spoil the capture, as OpenMM computes in another one at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is asked of the device yet."""
        self._device = device

    def __call__(self, function: Function, inputs: Tensors) -> Recording:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(self._device)
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        try:
            # The outer context leads back here also where a capture fails, after which torch stays where it was.
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    function(*inputs)
                with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                    outputs = function(*inputs)
        finally:
            here.wait_stream(aside)
        return Recording(graph.replay, outputs)


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on a device; None where nothing does."""
    return CUDARecorder(device) if device.type == "cuda" else None


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


class Replay:
    """A function of tensors that is recorded for the sizes it is called with, and replayed from then on.

    Frames leave a batch as they converge, which can make as many sizes as there are frames. So a batch is filled up to
    the next power of two with copies of its first frame, but not beyond the largest batch so far: that is one recording
    for the whole batch and one for each power of two below, which together hold about as much as two whole batches. The
    frames that are filled in cost little where launches dominate, which is where a replay pays. To record the sizes
    that are seen often instead would leave the others slow, and their number without a bound.
    """

    def __init__(self, function: Function, recorder: Recorder | None, kept: int = KEPT) -> None:
        """Nothing is recorded yet.

        Args:
            function: Of tensors with the frames, each by itself, in the first dimension; its results likewise. It must
                not wait for the host, nor read tensors of its own that change.
            recorder: None to call the function as it is.
            kept: Recordings at most; that which was not used for longest leaves first.
        """
        self._function = function
        self._recorder = recorder
        self._kept = kept
        self._largest = 0
        self._recorded: dict[tuple[object, ...], tuple[Tensors, Recording]] = {}

    def __call__(self, *inputs: Tensor) -> Tensors:
        """What the function gives, in tensors of the caller's own."""
        if self._recorder is None:
            return self._function(*inputs)
        n_frames = len(inputs[0])
        self._largest = max(self._largest, n_frames)
        size = min(power_of_two(n_frames), self._largest)
        key = (size, *((tensor.dtype, tensor.shape[1:]) for tensor in inputs))
        # Taken out and put in again: the one used last stands last.
        found = self._recorded.pop(key, None) or self._record(self._recorder, inputs, size)
        if found is None:
            return self._function(*inputs)
        self._recorded[key] = found
        held, recording = found
        _fill(held, inputs)
        recording.replay()
        # The next replay writes over its outputs.
        return tuple(tensor[:n_frames].clone() for tensor in recording.outputs)

    def _record(self, recorder: Recorder, inputs: Tensors, size: int) -> tuple[Tensors, Recording] | None:
        """The inputs of a new recording and the recording; None, now and for ever, where there cannot be one."""
        while len(self._recorded) >= self._kept:
            del self._recorded[next(iter(self._recorded))]
        try:
            held = tuple(tensor.new_empty(size, *tensor.shape[1:]) for tensor in inputs)
            _fill(held, inputs)
            return held, recorder(self._function, held)
        except RuntimeError as error:
            logger.warning(
                "The kernels of an SCC cycle could not be recorded (%s): they are launched one by one from now on.",
                error,
            )
        self._recorder = None
        self._recorded.clear()
        return None


def _fill(held: Tensors, given: Tensors) -> None:
    """Copy given frames into room for as many or more; the first frame fills the rest."""
    for room, tensor in zip(held, given, strict=True):
        room[: len(tensor)].copy_(tensor)
        if len(tensor) < len(room):
            room[len(tensor) :].copy_(tensor[:1])
