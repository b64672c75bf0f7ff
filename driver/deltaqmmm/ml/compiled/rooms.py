"""Room for the compiled loops, kept from call to call: to make it takes as long as some of the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, TypeVar, cast

_Make = TypeVar("_Make", bound=Callable[..., Any])

_MOST = 32
"""Rooms of one kind that a thread keeps."""


class _Rooms(threading.local):
    """What one thread has made."""

    def __init__(self) -> None:
        self.made: dict[Hashable, Any] = {}


def kept(make: _Make) -> _Make:
    """Let a thread have the same room again for the same arguments.

    What was written to it is still there. Who asks for it hands nothing of it on, and does not ask for it again before
    it is done with it.
    """
    rooms = _Rooms()

    @wraps(make)
    def find(*arguments: Hashable) -> object:
        made = rooms.made
        if arguments not in made:
            if len(made) >= _MOST:
                made.clear()
            made[arguments] = make(*arguments)
        return made[arguments]

    return cast(_Make, find)
