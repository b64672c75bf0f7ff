"""Stands in for `reference.worker`: a job whose identity is "deadly" kills the process."""

import os
import signal
import sys
import time

from deltaqmmm.companions import attend
from deltaqmmm.reference.worker import Refusal


def main():
    connection = attend(int(sys.argv[1]))
    work(connection, connection.recv())


def work(connection, settings):
    if settings.symbols == ("refused",):
        connection.send(Refusal("no such functional"))
        return
    if settings.symbols == ("broken",):
        os._exit(3)
    connection.send(None)
    while job := connection.recv():
        if job.identity == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.identity == "slow":
            time.sleep(60)
        connection.send((job.identity, os.environ["OMP_NUM_THREADS"]))
