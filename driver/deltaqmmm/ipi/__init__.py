"""The i-PI side: a socket client (unix, inet, shared memory; single frames and batches) and a bridge for `<ffdirect>`.

Nothing here knows what computes the forces: a callable gets cells and positions and returns an `Evaluation`.
"""

from deltaqmmm.ipi.client import Client, ClientSettings, EndReason, Outcome
from deltaqmmm.ipi.connection import DEFAULT_SOCKET_PREFIX, Address, InetAddress, UnixAddress
from deltaqmmm.ipi.conversation import StepReport
from deltaqmmm.ipi.ffdirect import DirectDriver
from deltaqmmm.ipi.frames import Evaluate, ExpectedFrames
from deltaqmmm.ipi.signals import StopRequest, stop_on_signals

__all__ = [
    "DEFAULT_SOCKET_PREFIX",
    "Address",
    "Client",
    "ClientSettings",
    "DirectDriver",
    "EndReason",
    "Evaluate",
    "ExpectedFrames",
    "InetAddress",
    "Outcome",
    "StepReport",
    "StopRequest",
    "UnixAddress",
    "stop_on_signals",
]
