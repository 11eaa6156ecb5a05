"""How well residual-SSL's priors find a lesion, by how many normals they have: a table for docs/methods.md.

    python docs/measure/priors.py
    python docs/measure/priors.py --normals 62 --set prior.volumes=3200 --set methods.residual.median=5

Each prior learns so many normal volumes of a phantom cohort that no table reports. Lesions are of other patients, each
kind in turn. Printed: the area under the ROC curve of |x - redrawn| over a volume's voxels, a mean over volumes, as it
is and median-filtered as the targets are; the mean target in the lesion and elsewhere; seconds of processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from voxbench.benchmark.settings.assemble import build_method
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.presets import parse_setting, read_preset
from voxbench.benchmark.settings.resolve import resolve
from voxbench.benchmark.training.batches import batch_of, looks
from voxbench.benchmark.training.holdout import divided
from voxbench.benchmark.training.train import optimise, start
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.views.loader import Draw, Loader
from voxbench.datasets.views.policies import policies
from voxbench.datasets.volumes.bank import VolumeBank, open_bank
from voxbench.methods.base import Stage
from voxbench.methods.parts.median import median_filter
from voxbench.methods.residual import Prior, Residual

SEED = 2
PATIENTS = 300
MOST = 200  # normals; their patients are not tested
LESIONS = 48  # volumes
SHORT = ("prior.volumes=640", "prior.batch=16")
PRIORS: Mapping[str, Sequence[str]] = {
    "median image": ("methods.residual.prior=median-image",),
    "40 steps of 16, nothing held out or augmented": (
        *SHORT,
        "methods.residual.augment=false",
        "methods.residual.held_out=0",
    ),
    "not augmented": ("methods.residual.augment=false",),
    "augmented": ("methods.residual.augment=true",),
}


def learnt(config: Config, bank: VolumeBank, normals: Sequence[int]) -> Prior:
    """The prior of `config`, from these volumes, as a run makes it."""
    channels, depth, height, width = bank.shape
    method = build_method(config, "residual", (channels, depth, height, width), 0, None)
    assert isinstance(method, Residual)
    stage: Stage = method.stages()[0]
    members, held_out = divided(bank.items, normals, stage.held_out, 0)
    views = looks(config.augmentation, stage)
    plain = policies()["none"]
    loader = Loader(
        bank, members, batch=config.prior.batch, policy=plain, looks=views, seed=0, device=torch.device("cpu")
    )
    steps = -(-config.prior.volumes // loader.batch) if stage.loss is not None else 0
    training = start(stage.module, config.prior, steps)

    def loss(draw: Draw) -> Tensor:
        assert stage.loss is not None
        return stage.loss(batch_of(draw, loader))

    optimise(training, loss, loader, config.prior)
    method.eval()
    assert stage.finish is not None
    stage.finish(loader.plain(held_out or None))
    return method.prior


def with_lesions(phantom: SinusPhantom, bank: VolumeBank, others: set[str]) -> tuple[Tensor, list[np.ndarray]]:
    """Volumes [N, C, D, H, W] of other patients, each kind of finding in turn, and their lesions [D, H, W]."""
    kinds: dict[str, list[int]] = {}
    for i, item in enumerate(bank.items):
        if item.label == 1 and item.patient not in others:
            kinds.setdefault(str(item.finding), []).append(i)
    chosen: list[int] = []
    while len(chosen) < LESIONS and any(kinds.values()):
        chosen += [rows.pop(0) for rows in kinds.values() if rows]
    masks = [phantom.lesion_mask(bank.items[i]) for i in chosen[:LESIONS]]
    return bank.batch(chosen[:LESIONS]), [mask for mask in masks if mask is not None]


def found(masks: Sequence[np.ndarray], maps: Tensor) -> float:
    """Mean AUROC over volumes of maps [N, C, D, H, W]."""
    return float(np.mean([roc_auc_score(m.ravel(), r[0].numpy().ravel()) for m, r in zip(masks, maps, strict=True)]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="How well priors of residual-SSL find a lesion.")
    parser.add_argument("--normals", default="9,20,62,200", help=f"volumes to learn from, at most {MOST}")
    parser.add_argument("--set", action="append", default=[], help="of the preset quick, e.g. prior.volumes=3200")
    args = parser.parse_args()
    torch.set_num_threads(1)
    phantom = SinusPhantom(SinusPhantom.Options(patients=PATIENTS, pool_patients=0, seed=SEED))
    print("| normals | prior | AUROC | filtered | target in the lesion | elsewhere | s |\n" + "| --- " * 7 + "|")  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        bank = open_bank(phantom, Path(folder))
        normals = [i for i, item in enumerate(bank.items) if item.label == 0][:MOST]
        volumes, masks = with_lesions(phantom, bank, {bank.items[i].patient for i in normals})
        inside = torch.from_numpy(np.stack(masks))[:, None]
        for count in map(int, args.normals.split(",")):
            for name, settings in PRIORS.items():
                layers = [read_preset("quick"), *map(parse_setting, (*args.set, *settings))]
                config = resolve(layers, ["residual"])
                began = time.process_time()
                prior = learnt(config, bank, normals[:count])
                spent = time.process_time() - began
                residual, target = (
                    torch.cat([make(x) for x in volumes.split(8)]) for make in (prior.residual, prior.target)
                )
                filtered = median_filter(residual, prior.options.median)
                scores = f"{found(masks, residual):.3f} | {found(masks, filtered):.3f}"
                means = f"{target[inside].mean():.2f} | {target[~inside].mean():.2f}"
                print(f"| {count} | {name} | {scores} | {means} | {spent:.1f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
