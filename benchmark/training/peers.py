"""Two views of the same volumes by other libraries: their data loading and augmentation beside ours, without training.

Each is given the strengths of one policy as far as it has them, in the cheapest way that it has: crop, scale, rotation
and shift in one resampling. What it has no transform for is left out, and said.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.speed import wait
from voxbench.datasets.views.augment import Strengths
from voxbench.datasets.views.loader import Loader

POLICY = "contrastive"
VIEWS = 2
MOST = 256  # volumes of the cohort: a peer holds them as float32
ROUNDS = 5  # in which all take turns
SECONDS = 0.5  # a turn, and at least one batch
EXTRA = "voxbench[peers]"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a library makes of the same volumes; two views count as two volumes."""

    name: str
    version: str
    volumes_per_second: float
    transforms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Source:
    name: str
    package: str
    batches: Iterator[Any]
    transforms: tuple[str, ...]


def check_peers() -> None:
    """Raises BenchError where torchio cannot be imported: it is not among voxbench's own needs."""
    try:
        importlib.import_module("torchio")
    except ImportError as error:
        raise BenchError(f"--peers: torchio cannot be imported ({error}): pip install '{EXTRA}'") from error


def compare(context: Context, batch: int | None = None) -> list[Peer]:
    """Volumes a second of two views of `batch` volumes: ours, on the device, and the peers', on the CPU.

    Each with as many threads as PyTorch has now, in this process.
    """
    members = range(min(MOST, len(context.bank)))
    batch = min(batch or context.config.pretrain.batch, len(members))
    volumes = [context.bank.batch([i])[0] for i in members]  # each its own memory: torchio copies all that one shares
    strengths = context.policies[POLICY].strengths
    with torch.random.fork_rng(devices=[]), _itk_threads(torch.get_num_threads()):
        sources = (
            _ours(context, members, batch, strengths),
            _torchio(volumes, batch, strengths),
            _monai(volumes, batch, strengths),
        )
        rates: list[list[float]] = [[] for _ in sources]
        for source in sources:
            next(source.batches)  # the first is slower
        for _ in range(ROUNDS):
            for source, found in zip(sources, rates, strict=True):
                found.append(VIEWS * batch * _batches_a_second(source.batches, context.device))
    return [
        Peer(
            name=source.name,
            version=importlib.metadata.version(source.package),
            volumes_per_second=statistics.median(found),
            transforms=source.transforms,
        )
        for source, found in zip(sources, rates, strict=True)
    ]


def _batches_a_second(batches: Iterator[Any], device: torch.device) -> float:
    wait(device)
    began, made = time.perf_counter(), 0
    while made == 0 or time.perf_counter() - began < SECONDS:
        next(batches)
        wait(device)
        made += 1
    return made / (time.perf_counter() - began)


def _ours(context: Context, members: Sequence[int], batch: int, s: Strengths) -> _Source:
    policy = context.policies[POLICY]
    loader = Loader(context.bank, members, batch=batch, policy=policy, seed=0, device=context.device, views=VIEWS)
    transforms = (
        f"crop to {_span(s.crop)} of the volume, of {s.crop_probability:.0%}; {_affine(s)}, of "
        f"{s.affine_probability:.0%}; {_flip(s)}: in one resampling",
        _tone(s),
        _gamma(s),
        _blur(s, context.dataset.shape[1]),
        _noise(s),
        "clamped to [0, 1]",
    )
    return _Source(
        name="voxbench", package="voxbench", batches=map(loader.draw, itertools.count()), transforms=transforms
    )


def _torchio(volumes: Sequence[Tensor], batch: int, s: Strengths) -> _Source:
    tio: Any = importlib.import_module("torchio")
    side = min(volumes[0].shape[1:])
    views = tio.Compose(
        [
            tio.RandomAffine(
                scales=_magnified(s), degrees=s.rotation, translation=s.shift * side, isotropic=True, p=_moved(s)
            ),
            tio.RandomFlip(axes=_flipped(s), flip_probability=s.flip_probability),
            tio.RandomGamma(log_gamma=tuple(map(math.log, s.gamma)), p=s.intensity_probability),
            tio.RandomBlur(std=tuple(sigma * side for sigma in s.blur), p=s.blur_probability),
            tio.RandomNoise(std=s.noise, p=s.noise_probability),
        ]
    )
    subjects = tio.SubjectsDataset([tio.Subject(image=tio.ScalarImage(tensor=volume)) for volume in volumes])
    transforms = (_one_affine(s), _flip(s), _gamma(s), _blur(s, side), _noise(s), "no brightness, no contrast")
    pairs = _Pairs(subjects, lambda subject: views(subject)["image"].data)
    return _Source(name="torchio", package="torchio", batches=_endless(pairs, batch), transforms=transforms)


def _monai(volumes: Sequence[Tensor], batch: int, s: Strengths) -> _Source:
    from monai import transforms as mt
    from monai.data import CacheDataset

    side = min(volumes[0].shape[1:])
    low, high = _magnified(s)
    angle, sigma = math.radians(s.rotation), tuple(value * side for value in s.blur)
    views = mt.Compose(
        [
            # The range of its scale is about 1, and of places that are read: the inverse of a magnification.
            mt.RandAffine(
                prob=_moved(s),
                rotate_range=(angle,) * 3,
                translate_range=(s.shift * side,) * 3,
                scale_range=((1 / high - 1, 1 / low - 1),) * 3,
                mode="bilinear",
                padding_mode="border",
            ),
            *(mt.RandFlip(prob=s.flip_probability, spatial_axis=axis) for axis in _flipped(s)),
            mt.RandScaleIntensity(prob=s.intensity_probability, factors=tuple(factor - 1 for factor in s.contrast)),
            mt.RandShiftIntensity(prob=s.intensity_probability, offsets=s.brightness),
            mt.RandAdjustContrast(prob=s.intensity_probability, gamma=s.gamma),
            mt.RandGaussianSmooth(prob=s.blur_probability, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma),
            mt.RandGaussianNoise(prob=s.noise_probability, std=s.noise[1]),
        ]
    ).set_random_state(0)
    cached = CacheDataset(volumes, mt.Compose([mt.EnsureType(track_meta=False)]), copy_cache=False, progress=False)
    transforms = (_one_affine(s), _flip(s), _tone(s), _gamma(s), _blur(s, side), _noise(s))
    return _Source(name="MONAI", package="monai", batches=_endless(_Pairs(cached, views), batch), transforms=transforms)


class _Pairs(Dataset[tuple[Tensor, ...]]):
    """Views of each volume, one made apart from the other."""

    def __init__(self, volumes: Any, view: Callable[[Any], Any]) -> None:
        self.volumes, self.view = volumes, view

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        volume = self.volumes[index]
        return tuple(torch.as_tensor(self.view(volume)) for _ in range(VIEWS))


def _endless(pairs: _Pairs, batch: int) -> Iterator[Any]:
    """Batches of a DataLoader in this process, epoch after epoch."""
    loader = DataLoader(
        pairs, batch_size=batch, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0)
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


@contextmanager
def _itk_threads(count: int) -> Iterator[None]:
    """torchio resamples through SimpleITK, which would take all cores."""
    import SimpleITK as sitk  # noqa: N813 - its own convention

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


# --- what a policy's strengths are to a peer --------------------------------


def _magnified(s: Strengths) -> tuple[float, float]:
    """Scales of one affine map in place of crop and scale: a crop that keeps v of the volume magnifies by v^(-1/3)."""
    return s.scale[0] / s.crop[1] ** (1 / 3), max(s.scale[1], s.crop[0] ** (-1 / 3))


def _moved(s: Strengths) -> float:
    """Share of the volumes that crop, affine map or both move."""
    return 1 - (1 - s.crop_probability) * (1 - s.affine_probability)


def _flipped(s: Strengths) -> tuple[int, ...]:
    return tuple("xyz".index(axis) for axis in s.flip_axes)


def _span(bounds: tuple[float, float], unit: str = "") -> str:
    return f"{bounds[0]:.3g} to {bounds[1]:.3g}{unit}"


def _affine(s: Strengths) -> str:
    return f"scale {_span(s.scale)}, rotation up to {s.rotation:g} degrees, shift up to {s.shift:.0%}"


def _one_affine(s: Strengths) -> str:
    return (
        f"scale {_span(_magnified(s))}, rotation up to {s.rotation:g} degrees, shift up to {s.shift:.0%}, of "
        f"{_moved(s):.0%}: in one linear resampling"
    )


def _flip(s: Strengths) -> str:
    return f"flip along {', '.join(s.flip_axes)} of {s.flip_probability:.0%}"


def _tone(s: Strengths) -> str:
    return f"brightness up to {s.brightness:g}, contrast {_span(s.contrast)}, of {s.intensity_probability:.0%}"


def _gamma(s: Strengths) -> str:
    return f"gamma {_span(s.gamma)}, of {s.intensity_probability:.0%}"


def _blur(s: Strengths, side: int) -> str:
    return f"blur {_span((s.blur[0] * side, s.blur[1] * side), ' voxels')}, of {s.blur_probability:.0%}"


def _noise(s: Strengths) -> str:
    return f"noise {_span(s.noise)}, of {s.noise_probability:.0%}"
