"""What a result was made with: recorded beside it, never part of its key."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from voxbench.benchmark.records.costs import device_name
from voxbench.benchmark.settings.keys import RESULT_VERSION

PACKAGES = ["voxbench", "torch", "torchvision", "lightly", "monai", "nibabel", "numpy", "scikit-learn", "pandas"]


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, git commit, device and platform; no host name, no user name, no path."""
    return {
        "result_version": RESULT_VERSION,
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of voxbench's own checkout, where it is run from one; '+' marks uncommitted changes."""
    here = Path(__file__).resolve().parent
    try:
        run = ["git", "--no-optional-locks", "-C", str(here)]  # beside the user's own git
        commit = subprocess.run([*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, timeout=10)
        dirty = subprocess.run([*run, "status", "--porcelain"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode != 0:
        return None
    return commit.stdout.decode("ascii", "replace").strip() + ("+" if dirty.stdout.strip() else "")
