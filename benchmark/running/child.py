"""What every process that a run starts does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import torch


def begin(threads: int) -> None:
    """Ctrl-C is the starting process's to handle; this one ends with it, and computes with so many threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)


def end_with_driver() -> None:
    """Ends this process when the one that started it is gone, were it before this one had begun its work."""
    driver = multiprocessing.parent_process()
    while driver is not None and os.getppid() == driver.pid:
        time.sleep(1.0)
    os._exit(1)


def use(device: torch.device) -> None:
    """What PyTorch does on "the" GPU is to be on this one: else each process takes memory of the first as well."""
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
