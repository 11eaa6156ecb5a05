"""Did a stage learn: its encoder beside the one that it began with, on labelled volumes of the training part.

Labels are read here and nothing is selected by them: the weights are saved before, no setting depends on what is found,
and no label of a tested patient of the stage's own fold is read. What it costs is not of the method's time.
"""

from __future__ import annotations

import io
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from voxbench.benchmark.planning.plan import StagePlan
from voxbench.benchmark.settings.assemble import build_method, placed
from voxbench.benchmark.settings.keys import derive_seed
from voxbench.benchmark.training.context import Context
from voxbench.benchmark.training.frozen import features_of
from voxbench.datasets.base import Item
from voxbench.datasets.files import write_whole
from voxbench.datasets.views.loader import Loader
from voxbench.methods.base import Encoder
from voxbench.methods.parts.logistic import out_of_fold
from voxbench.reports.stats.average_precision import macro_average_precision
from voxbench.reports.stats.bootstrap import difference_interval, patient_weights, standard_error
from voxbench.reports.stats.representation import alignment, rankme, uniformity

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAP = "map.npz"
FEWEST_ON_MAP, MOST_ON_MAP = 12, 200  # volumes: of fewer there is nothing to see, of more it takes seconds
PERPLEXITY = 30.0  # scikit-learn's default; a third of fewer volumes
VIEWED = 64  # volumes of which two views are made
VIEWS_BATCH = 32
RESAMPLES = 1000


def diagnose(context: Context, plan: StagePlan, encoder: Encoder) -> dict[str, Any]:
    """Of the encoder as the stage left it, on the device; {} where the plan has nothing to diagnose it by.

    Of one run of a stage a map of both encoders' features is written beside its weights.
    """
    if len(plan.diagnosed) < 2:
        return {}
    began = time.perf_counter()
    method = build_method(context.config, plan.method, context.dataset.shape, plan.seed, plan.fold)
    initial = placed(method.encoder, context.device)
    items = [context.bank.items[i] for i in plan.diagnosed]
    with threadpool_limits(1):
        both = {
            name: features_of(context, one, plan.diagnosed).double().numpy()
            for name, one in (("initial", initial), ("trained", encoder))
        }
        found = {
            "n_labels": len({item.scored_unit for item in items}),
            "probe": _probe(items, both["trained"], both["initial"]),
            "representation": {
                name: {
                    "rankme": rankme(both[name]),
                    "alignment": alignment(*_views(context, plan, one)),
                    "uniformity": uniformity(both[name]),
                }
                for name, one in (("initial", initial), ("trained", encoder))
            },
        }
        if plan.mapped and len(items) >= FEWEST_ON_MAP:
            _write_map(context, plan, items, both)
    return {"diagnosis": {**found, "seconds": time.perf_counter() - began}}


def _probe(items: list[Item], trained: Floats, initial: Floats) -> dict[str, float] | None:
    """AUPRC out of fold of logistic regression on either encoder's features, and their difference.

    With the 95 % interval of the patient bootstrap; None where no fold can be made between patients.
    """
    labels = np.array([item.label for item in items], dtype=np.int64)
    _, patients = np.unique([item.patient for item in items], return_inverse=True)
    seed = derive_seed("diagnosis") % 2**31
    scores = [out_of_fold(features, labels, patients.astype(np.int64), seed) for features in (trained, initial)]
    if scores[0] is None or scores[1] is None:
        return None
    _, classes = np.unique(labels, return_inverse=True)
    held_out = np.isfinite(scores[0]).all(axis=1)
    weights = patient_weights(int(patients.max()) + 1, RESAMPLES, np.random.default_rng(seed))[:, patients[held_out]]

    def precision(one: Floats, weight: Floats | None = None) -> Floats:
        columns = one[held_out, 1:] if one.shape[1] == 2 else one[held_out]
        return macro_average_precision(classes[held_out].astype(np.int64), columns, weight)

    value, before = (float(precision(one)[0]) for one in scores if one is not None)
    error = standard_error(precision(scores[0], weights) - precision(scores[1], weights))
    low, high = difference_interval(value - before, error)
    known = np.isfinite([value, before, low, high]).all()
    return {"auprc": value, "initial": before, "low": low, "high": high} if known else None


def _views(context: Context, plan: StagePlan, encoder: Encoder) -> tuple[Floats, Floats]:
    """Features [N, F] of two augmented views of some volumes, the same views for every encoder."""
    members = plan.diagnosed[:VIEWED]
    loader = Loader(
        context.bank,
        members,
        batch=VIEWS_BATCH,
        policy=context.policies["contrastive"],
        seed=derive_seed("diagnosis", "views"),
        device=context.device,
        views=2,
    )
    with torch.no_grad():
        drawn = [loader.draw(step).views for step in range(max(1, len(members) // loader.batch))]
        pairs = [[encoder(view).double().cpu().numpy() for view in views] for views in drawn]
    first, second = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return first, second


def _write_map(context: Context, plan: StagePlan, items: list[Item], both: dict[str, Floats]) -> None:
    """Places in the plane and what was found, in an order that tells nothing of whose they are."""
    groups = np.array([item.finding or context.dataset.classes[int(item.label or 0)] for item in items])
    shown = slice(None, None, math.ceil(len(items) / MOST_ON_MAP))
    groups = groups[shown]
    maps: dict[str, Any] = {name: embedded(features[shown]) for name, features in both.items()}
    order = np.lexsort((*maps["trained"].T, groups))
    whole = io.BytesIO()
    places = {name: of[order] for name, of in maps.items()}
    np.savez_compressed(whole, groups=groups[order], initial=places["initial"], trained=places["trained"])
    write_whole(context.store.stage_folder(plan.key) / MAP, lambda file: file.write(whole.getvalue()))


def embedded(features: Floats) -> npt.NDArray[np.float32]:
    """[N, 2]: t-SNE of standardised features [N, F] (van der Maaten and Hinton, JMLR 2008)."""
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    scaled = StandardScaler().fit_transform(features)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(scaled)
    return np.asarray(places, dtype=np.float32)
