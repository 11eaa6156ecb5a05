"""How many copies of volumes the leak audit finds, and how often it cries wolf: a table for docs/protocol.md.

    python docs/measure/copies.py --volumes 5000 --copies 100
    python docs/measure/copies.py --volumes 19998 --copies 20 --size 32
    python docs/measure/copies.py --medmnist path/to/adrenalmnist3d_64.npz --copies 40

Each change is made to so many volumes of the cohort, of one volume at most one copy, under a patient id of its own.
All stand in one cohort, and every pair of strangers that is found is a false alarm. Thresholds were chosen on phantoms
of seed 101; here others are drawn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from voxbench.benchmark.settings.config import AuditConfig
from voxbench.datasets.base import Item
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.volumes.copies import BLOCKS, find_copies
from voxbench.datasets.volumes.poses import draw_poses, posed

SEED = 7


@dataclass(frozen=True)
class Change:
    """What is done to a volume; poses as `draw_poses` has them."""

    pose: dict[str, Any] = field(default_factory=dict)
    padding: str = "border"
    gamma: float = 1.0  # the largest, and one over it the smallest
    noise: float = 0.0
    window: bool = False  # the darkest and the brightest are cut off
    coarser: float = 1.0  # exported on a grid so much coarser, and brought back


CHANGES = {
    "noise of 0.05": Change(noise=0.05),
    "gamma 0.6 to 1.7": Change(gamma=1.7),
    "window: up to 15 % cut off below, 30 % above": Change(window=True),
    "shift of one voxel": Change(pose={"voxel": True}),
    "shift up to 10 % along each axis": Change(pose={"shift": 0.1}),
    "shift of 10 % along every axis": Change(pose={"shift": 0.1, "extreme": True}),
    "the same, black where nothing is known": Change(pose={"shift": 0.1, "extreme": True}, padding="zeros"),
    "turned up to 15 degrees": Change(pose={"degrees": 15.0}),
    "turned by 15 degrees": Change(pose={"degrees": 15.0, "extreme": True}),
    "rescaled 0.8 to 1.25": Change(pose={"scale": 1.25}),
    "rescaled by 0.8 or 1.25": Change(pose={"scale": 1.25, "extreme": True}),
    "flipped along any axes": Change(pose={"flips": True}),
    "resampled 1.5 times coarser and back": Change(coarser=1.5),
    "half of all: 5 %, 7.5 degrees, 0.9 to 1.11, gamma, noise 0.03": Change(
        pose={"shift": 0.05, "degrees": 7.5, "scale": 1.11, "flips": True}, gamma=1.25, noise=0.03
    ),
    "all at once: 10 %, 15 degrees, 0.8 to 1.25, flips, gamma, noise 0.05": Change(
        pose={"shift": 0.1, "degrees": 15.0, "scale": 1.25, "flips": True}, gamma=1.7, noise=0.05
    ),
}


def changed(volumes: torch.Tensor, change: Change, rng: np.random.Generator) -> torch.Tensor:
    """Copies of volumes [n, D, H, W] in [0, 1]."""
    count, *shape = volumes.shape
    out = volumes
    if change.pose.get("voxel"):
        out = torch.roll(out, 1, dims=int(rng.integers(1, 4)))
    elif change.pose:
        out = posed(out, draw_poses(count, rng, **change.pose), change.padding)
    if change.coarser > 1:
        coarse = F.interpolate(out[:, None], scale_factor=1 / change.coarser, mode="trilinear", antialias=False)
        out = F.interpolate(coarse, size=shape, mode="trilinear")[:, 0]

    def each(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))

    if change.window:
        low, high = each(0, 0.15), each(0.7, 1)
        out = (out - low) / (high - low)
    out = out.clamp(0, 1) ** (change.gamma ** each(-1, 1))
    noise = change.noise * rng.standard_normal(out.shape, dtype=np.float32)
    return (out + torch.from_numpy(noise)).clamp(0, 1)


def phantoms(volumes: int, size: int) -> tuple[np.ndarray, list[str]]:
    """[N, size, size, size] bytes, and whose they are."""
    options = SinusPhantom.Options(patients=(volumes + 1) // 2, pool_patients=0, seed=SEED, size=size)
    phantom = SinusPhantom(options)
    items: list[Item] = list(phantom.items())[:volumes]
    return np.stack([np.rint(phantom.read(item)[0] * 255).astype(np.uint8) for item in items]), [
        i.patient for i in items
    ]


def medmnist(path: Path) -> tuple[np.ndarray, list[str]]:
    """All volumes of a file of MedMNIST, bytes [N, D, H, W], each a patient of its own."""
    with np.load(path, allow_pickle=False) as archive:
        images = np.concatenate([archive[f"{part}_images"] for part in ("train", "val", "test")])
    return images, [str(i) for i in range(len(images))]


def measure(originals: np.ndarray, patients: list[str], copies: int) -> Iterator[str]:
    """Lines of a Markdown table."""
    rng = np.random.default_rng(SEED)
    count = len(originals)
    sources = rng.permutation(count)[: copies * len(CHANGES)].reshape(len(CHANGES), -1)
    made = [originals]
    for change, rows in zip(CHANGES.values(), sources, strict=True):
        copied = changed(torch.from_numpy(originals[rows]).float() / 255, change, rng)
        made.append((copied * 255).round().byte().numpy())
    volumes = torch.from_numpy(np.concatenate(made))
    blocks = torch.cat([F.adaptive_avg_pool3d(part.float()[None] / 255, BLOCKS)[0] for part in volumes.split(64)])
    people = patients + [f"copy {i}" for i in range(sources.size)]
    limit = AuditConfig().likeness

    began, spent = time.perf_counter(), time.process_time()
    found = find_copies(blocks, people, lambda rows: volumes[list(rows)].float()[:, None] / 255, volumes.shape[1:])
    wall, spent = time.perf_counter() - began, time.process_time() - spent

    origin = {count + i: int(source) for i, source in enumerate(sources.ravel())}
    likeness = {(copy.a, copy.b): copy.likeness for copy in found}
    yield f"| change ({count} volumes, {sources.shape[1]} copies each) | found | least likeness of 95 % |"
    yield "| --- | --- | --- |"
    for number, name in enumerate(CHANGES):
        first = count + number * sources.shape[1]
        got = [likeness.get((origin[row], row), 0.0) for row in range(first, first + sources.shape[1])]
        share = np.mean(np.array(got) >= limit)
        yield f"| {name} | {share:.1%} | {np.quantile(got, 0.05):.3f} |"
    person = [*patients, *(patients[source] for source in origin.values())]
    strangers = sorted(
        ((value, pair) for pair, value in likeness.items() if person[pair[0]] != person[pair[1]]), reverse=True
    )
    alarms = [value for value, _ in strangers if value >= limit]
    yield f"| different volumes called copies, of {len(volumes) * (len(volumes) - 1) // 2} pairs | {len(alarms)} | |"
    top = ", ".join(f"{value:.3f} {pair}" for value, pair in strangers[:3]) or "none was a candidate"
    yield f"\nLikest strangers: {top}. {len(volumes)} volumes: {wall:.0f} s, {spent:.0f} s of processor time."


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="What the leak audit finds of planted copies.")
    parser.add_argument("--volumes", type=int, default=5000, help="of the phantom")
    parser.add_argument("--size", type=int, default=32, help="voxels along each axis of the phantom")
    parser.add_argument("--medmnist", type=Path, help="a file of MedMNIST instead")
    parser.add_argument("--copies", type=int, default=100, help="of each change")
    args = parser.parse_args()
    originals, patients = medmnist(args.medmnist) if args.medmnist else phantoms(args.volumes, args.size)
    for line in measure(originals, patients, args.copies):
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
