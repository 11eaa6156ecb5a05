"""How worker processes start and end: as copies of one that has imported what they need, and with their driver.

To import PyTorch, MONAI and scikit-learn takes seconds of a core. One process, the fork server, does so once, while the
run is still being planned; each worker is forked from it in a moment, and shares with the others the memory of what was
imported. The server itself computes nothing, so that there are no threads or GPUs to be copied in mid-work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext

import torch

PRELOADED = (
    "voxbench.benchmark.running.local",
    "voxbench.methods.encoders.resnet",  # brings MONAI
    "lightly.utils.debug",  # of what stages look at now and then
)


def start_method() -> BaseContext:
    """Of worker processes: forked from a server that has imported `PRELOADED`, or new ones where forks are not safe."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    return multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Has the server import while this process goes on with something else."""
    if start_method().get_start_method() == "forkserver":
        forkserver.ensure_running()


def begin(threads: int) -> None:
    """What each process that a run starts does first: it leaves Ctrl-C to its driver, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)


def use(device: torch.device) -> None:
    """What PyTorch does on "the" GPU is to be on this one: else each process takes memory of the first as well."""
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)


def take_on(environment: Mapping[str, str]) -> None:
    """Gives this worker the variables of its driver: the server may be older than some of them."""
    os.environ.clear()
    os.environ.update(environment)


def end_with_driver() -> None:
    """Ends this process when the one that it works for is gone, were it before this one had begun its work.

    So too when the process that it was forked from is: then the driver has given it up.
    """
    driver, above = multiprocessing.parent_process(), os.getppid()
    while driver is not None and not wait([driver.sentinel], timeout=1.0) and os.getppid() == above:
        pass
    os._exit(1)
