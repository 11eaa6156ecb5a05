"""Evaluations without fine-tuning: a classifier on the features of the frozen encoder.

A linear probe (Alain and Bengio, ICLR workshop 2017) and nearest neighbours (Wu et al., CVPR 2018). One pass over the
labelled volumes serves all cells of one encoder: each fraction, and both evaluations.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voxbench.benchmark.planning.plan import CellPlan
from voxbench.benchmark.planning.volumes import BankVolumes
from voxbench.benchmark.records.store import own_folder
from voxbench.benchmark.settings.assemble import placed
from voxbench.benchmark.settings.keys import RESULT_VERSION, digest
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.pretrained import pretrained
from voxbench.datasets.files import write_whole
from voxbench.methods.base import Encoder, Labelled, Options, Predictor, Volumes
from voxbench.methods.parts.neighbours import neighbours
from voxbench.methods.parts.probe import Probe

Floats = npt.NDArray[np.float64]
FOLDER = "features"  # below private/
_SEAL = hashlib.sha256().digest_size


class Linear(Probe):
    """Logistic regression on features that are made already."""

    def features(self, volumes: Tensor) -> Tensor:
        """[B, F] as they are."""
        return volumes


class Neighbours(Linear):
    """Nearest neighbours on features that are made already."""

    def learnt(self, features: Floats, data: Labelled) -> object:
        """Neighbours on `features` [N, F]."""
        return neighbours(features, data.labels, data.patients, data.seed)

    def scores(self, volumes: Volumes) -> Floats:
        """Shares of the neighbours: no class was weighted."""
        scores: Floats = self.classifier.predict_proba(volumes.features(self.features))
        return scores


EVALUATIONS: dict[str, type[Probe]] = {"linear": Linear, "knn": Neighbours}


class FeatureRows(BankVolumes):
    """Features [B, F] in the place of volumes; `seen` as of the volumes themselves."""

    def __init__(self, context: Context, members: Sequence[int], features: dict[int, Tensor]) -> None:
        super().__init__(context.bank, members, torch.device("cpu"))
        self.features_of = features

    def batches(self) -> Iterator[Tensor]:
        """All of them in order."""
        self.seen.update(self.members)
        if self.members:
            yield torch.stack([self.features_of[i] for i in self.members])


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is fitted in a cell, and what it is given of some of the bank's volumes."""

    predictor: Predictor
    volumes: Callable[[Sequence[int]], BankVolumes]
    seconds_before: float = 0.0  # spent earlier on what the cell uses, by whichever cell came first


def frozen(context: Context, plan: CellPlan) -> Fit:
    """The fit of a cell whose evaluation needs no training of a network."""
    encoder = pretrained(context, plan)
    features, seconds = frozen_features(context, plan, encoder)
    predictor = EVALUATIONS[plan.evaluation](encoder, Options(), context.dataset.shape)
    return Fit(
        predictor=predictor,
        volumes=lambda members: FeatureRows(context, members, features),
        seconds_before=seconds,
    )


def frozen_features(context: Context, plan: CellPlan, encoder: Encoder) -> tuple[dict[int, Tensor], float]:
    """Features [F] of each labelled volume by its position, and the seconds that an earlier cell spent on them.

    Kept in ``private/features`` by what decides them: they are of patients, and can be made again.
    """
    labelled = tuple(i for i, item in enumerate(context.bank.items) if item.label is not None)
    path = own_folder(context.store.root, FOLDER) / f"{_decided_by(context, plan, encoder)}.features"
    kept = _read(path)
    if kept is None or len(kept[0]) != len(labelled):
        began = time.perf_counter()
        made = features_of(context, placed(encoder, context.device), labelled)
        _write(path, made, time.perf_counter() - began)
        return dict(zip(labelled, made, strict=True)), 0.0
    return dict(zip(labelled, kept[0], strict=True)), kept[1]


def features_of(context: Context, encoder: Encoder, members: Sequence[int]) -> Tensor:
    """[M, F] float32 on the CPU: pooled features of unaugmented volumes, in eval mode and float32."""
    encoder.eval()
    volumes = BankVolumes(context.bank, members, context.device)
    with torch.no_grad():
        return torch.cat([encoder(batch).float().cpu() for batch in volumes.batches()])


def _decided_by(context: Context, plan: CellPlan, encoder: Encoder) -> str:
    weights = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    identity = context.config.encoder_of(plan.method).identity("encoders")
    return digest([RESULT_VERSION, identity, weights.hexdigest(), context.bank.fingerprint, context.device.type])


def _write(path: Path, features: Tensor, seconds: float) -> None:
    """Whole or not at all, and with its checksum: a flipped bit must not become a score."""
    whole = io.BytesIO()
    np.save(whole, features.numpy())
    about = json.dumps({"seconds": seconds}).encode()
    content = b"\n".join([about, whole.getvalue()])
    write_whole(path, lambda file: file.writelines((content, hashlib.sha256(content).digest())), private=True)


def _read(path: Path) -> tuple[Tensor, float] | None:
    """What `_write` wrote; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    content, seal = content[:-_SEAL], content[-_SEAL:]
    if hashlib.sha256(content).digest() != seal:
        return None
    about, _, array = content.partition(b"\n")
    features = np.load(io.BytesIO(array), allow_pickle=False)
    return torch.from_numpy(features), float(json.loads(about)["seconds"])
