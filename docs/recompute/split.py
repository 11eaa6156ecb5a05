"""What the corrected resampled t-test needs to know of a run's splits: n_test / n_train, and what a replicate is."""

import json
from pathlib import Path

import pandas as pd
import yaml


def about(run):
    """dataset.json."""
    return json.loads(Path(run, "dataset.json").read_text(encoding="utf-8"))


def folds_of(run):
    """How many there are, or were planned; an official split has one."""
    last = pd.read_csv(f"{run}/results.csv").fold.max()
    planned = yaml.safe_load(Path(run, "config.yaml").read_text(encoding="utf-8"))["protocol"].get("folds", 1)
    return last + 1 if about(run).get("official_split", last == 0) else max(planned, last + 1)


def test_per_train(run):
    """Of the planned folds; of an official split its own sizes, or in an older folder the most labels given."""
    if sizes := about(run).get("official_split_sizes"):
        return sizes["n_test"] / (sizes["n_train"] + sizes["n_val"])
    results, folds = pd.read_csv(f"{run}/results.csv"), folds_of(run)
    labels = results[results.status == "ok"]
    tested = pd.read_csv(f"{run}/predictions.csv").volume.nunique()
    return 1 / (folds - 1) if folds > 1 else tested / (labels.n_train_labels + labels.n_val_labels).max()


def replicates(scores, run, apart):
    """The differences that the t-test counts; of seeds that share a split the mean of each fold."""
    parts = scores.groupby(["fold", "seed"]).volume.agg(frozenset).groupby("fold")
    seeds = parts.size() > 1
    shared = folds_of(run) > 1 and seeds.any() and (parts.nunique()[seeds] == 1).all()
    return apart.groupby(level=0).mean() if shared else apart
