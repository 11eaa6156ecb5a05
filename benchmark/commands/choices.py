"""What the command line's options may be."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What `bench list` can list."""

    methods = "methods"
    datasets = "datasets"
    encoders = "encoders"
    presets = "presets"


class TrackingName(StrEnum):
    """Whether W&B is filled."""

    online = "online"
    offline = "offline"
    off = "off"


class SyncName(StrEnum):
    """Where `bench wandb-sync` puts W&B runs: on the server, or into files under the run folder."""

    online = "online"
    offline = "offline"


class ExecutorName(StrEnum):
    """Where the jobs of a grid are carried out."""

    local = "local"
    slurm = "slurm"


class PrecisionName(StrEnum):
    """What training computes in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class RecomputeName(StrEnum):
    """When maps are computed again in place of being kept."""

    auto = "auto"
    never = "never"
    always = "always"


class ProtocolName(StrEnum):
    """What a method may spend labels on."""

    strict = "strict"
    paper = "paper"
