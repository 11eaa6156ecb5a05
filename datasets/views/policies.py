"""The named augmentation policies, how strong each is and why, and `--set augmentation.POLICY.KEY=VALUE`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from voxbench.datasets.base import DatasetError
from voxbench.datasets.views.augment import Policy, Strengths

DEFAULTS: Mapping[str, Strengths] = MappingProxyType(
    {
        # Two views as in SimCLR (Chen et al., ICML 2020, appendix A: resized crop, flip, colour, blur), in
        # 3D: colour is brightness, contrast and gamma; the crop keeps 0.4 to 1 of the volume, where SimCLR
        # keeps 0.08 to 1 of an image, because a small finding must be in both views often enough. Blur to 2
        # voxels at 64^3.
        "contrastive": Strengths(
            crop_probability=0.9,
            crop=(0.4, 1.0),
            affine_probability=0.3,  # a rotation is the dearest part on a CPU
            scale=(0.9, 1.1),
            rotation=15,
            shift=0.05,
            flip_probability=0.5,
            intensity_probability=0.8,
            brightness=0.15,
            contrast=(0.65, 1.5),
            gamma=(0.7, 1.5),
            blur_probability=0.5,
            blur=(0.004, 0.031),
            noise_probability=0.5,
            noise=(0.0, 0.08),
        ),
        # For reconstruction: enough that no voxel is learnt by heart, little enough that the anatomy stays.
        "geometric": Strengths(
            affine_probability=0.5,
            scale=(0.9, 1.1),
            rotation=10,
            shift=0.05,
            flip_probability=0.5,
            intensity_probability=0.3,
            brightness=0.05,
            contrast=(0.8, 1.25),
            blur_probability=0.2,
            blur=(0.004, 0.016),
            noise_probability=0.3,
            noise=(0.0, 0.05),
        ),
        # Every volume is moved, and most change in tone: of few labels a network learns the scanner by heart before
        # it learns the finding. Chosen on phantoms that no table reports (docs/protocol.md); the seed paper leaves
        # half of the volumes as they are (preset paper-recipe).
        "finetune": Strengths(
            affine_probability=1.0,
            scale=(0.75, 1.33),
            rotation=20,
            shift=0.08,
            flip_probability=0.4,
            intensity_probability=0.8,
            brightness=0.1,
            contrast=(0.75, 1.33),
            gamma=(0.75, 1.33),
            blur_probability=0.2,
            blur=(0.0, 0.031),
            noise_probability=0.2,
            noise=(0.0, 0.25),
        ),
        "none": Strengths(probability=0.0),
    }
)


def policies(overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Mapping[str, Policy]:
    """The named policies, with strengths replaced where `overrides` (policy -> key -> value) says so.

    Raises DatasetError with every unknown policy, unknown key and bad value.
    """
    overrides = overrides or {}
    problems = [
        f"augmentation.{name}: there is no such policy{_nearest(name, DEFAULTS)}"
        for name in overrides
        if name not in DEFAULTS
    ]
    made: dict[str, Policy] = {}
    for name, default in DEFAULTS.items():
        try:
            strengths = Strengths.model_validate({**default.model_dump(), **overrides.get(name, {})})
        except ValidationError as error:
            problems += [_problem(name, dict(found)) for found in error.errors()]
        else:
            made[name] = Policy(name, strengths)
    if problems:
        raise DatasetError("the augmentation settings cannot be used:", problems)
    return MappingProxyType(made)


def _problem(policy: str, found: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        return f"augmentation.{policy}.{key}: there is no such key{_nearest(key, Strengths.model_fields)}"
    return f"augmentation.{policy}.{key}: {found['msg']}, not {found['input']!r}"


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
