"""What the other scripts read: the scored test units of a run that are compared.

Of a run with several evaluations they are those of fine-tuning, or of the one in EVALUATION:

    EVALUATION=linear python table.py RUN
"""

import os

import pandas as pd

PLACE = ["method", "fraction", "fold", "seed"]
EVALUATION = os.environ.get("EVALUATION", "finetune")


def read(run):
    """The scored units that are compared; of a cell whose test part has one class only, none."""
    scores = of_evaluation(pd.read_csv(f"{run}/predictions.csv"))
    scores = scores[scores.groupby(PLACE).label.transform("nunique") > 1]
    return pd.concat([shared(each) for _, each in scores.groupby("fraction")]).sort_index()


def of_evaluation(table):
    """The rows of an evaluation; those of predictors stand with the first one of the run. Older tables have one."""
    if "evaluation" not in table:
        return table
    order = ["finetune", "linear", "knn"]
    first = min({*table.evaluation} & {*order} or {EVALUATION}, key=order.index)
    return table[table.evaluation.isin([EVALUATION, "own"] if first == EVALUATION else [EVALUATION])]


def shared(scores):
    """Of one fraction: the folds and seeds that all its methods have, without methods that would leave too few."""
    own = {method: set(zip(each.fold, each.seed, strict=True)) for method, each in scores.groupby("method")}
    order = sorted(own, key=lambda method: (-len(own[method]), method))
    common, methods = own[order[0]], []
    for method in order:
        if 2 * len(common & own[method]) >= len(own[order[0]]):
            common, methods = common & own[method], [*methods, method]
    return scores[scores.method.isin(methods) & pd.MultiIndex.from_frame(scores[["fold", "seed"]]).isin(common)]


def yardsticks(run):
    """Methods whose rows say that they are one."""
    results = of_evaluation(pd.read_csv(f"{run}/results.csv"))
    return set(results.method[results.role == "yardstick"]) if "role" in results else set()


def columns(scores):
    """Names of the scores: of class 1 of two, or of each of several classes; with the class."""
    names = [name for name in scores if name.startswith("score")]
    return [(1, names[0])] if len(names) == 1 else list(enumerate(names))
