"""What a piece of work costs: seconds and peak memory."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path
from types import TracebackType

import torch


class Meter:
    """Measures a ``with`` block: `seconds` of wall clock, `peak_memory_mb` of the device (GPU) or the process (CPU)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.peak_memory_mb = 0.0

    def __enter__(self) -> Meter:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_resident_peak()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_memory_mb = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            self.peak_memory_mb = _resident_peak_mb()
        self.seconds = time.perf_counter() - self._start


def _reset_resident_peak() -> None:
    # Linux starts VmHWM anew on this write (proc(5)); where that is refused the peak is the process's so far.
    path = Path("/proc/self/clear_refs")
    if path.exists():
        try:
            path.write_text("5")
        except OSError:
            return


def _resident_peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 1024


def device_name(device: torch.device, precision: torch.dtype = torch.float32) -> str:
    """A name for the results: the GPU's, or ``cpu``, and the type that was computed in where it is another."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return name if precision == torch.float32 else f"{name} in {str(precision).removeprefix('torch.')}"
