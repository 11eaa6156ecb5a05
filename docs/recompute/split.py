"""n_test / n_train of a run, for the corrected resampled t-test."""

import json
from pathlib import Path

import pandas as pd
import yaml


def test_per_train(run):
    """Of the planned folds; of an official split its own sizes, or in an older folder the most labels given."""
    about = json.loads(Path(run, "dataset.json").read_text(encoding="utf-8"))
    if sizes := about.get("official_split_sizes"):
        return sizes["n_test"] / (sizes["n_train"] + sizes["n_val"])
    results = pd.read_csv(f"{run}/results.csv")
    planned = yaml.safe_load(Path(run, "config.yaml").read_text(encoding="utf-8"))["protocol"].get("folds", 1)
    official = about.get("official_split", results.fold.max() == 0)
    folds = results.fold.max() + 1 if official else max(planned, results.fold.max() + 1)
    labels = results[results.status == "ok"]
    tested = pd.read_csv(f"{run}/predictions.csv").volume.nunique()
    return 1 / (folds - 1) if folds > 1 else tested / (labels.n_train_labels + labels.n_val_labels).max()
