"""python findings.py RUN: recall by finding with its interval (two classes)."""

import sys

import numpy as np
import pandas as pd
from resample import weights
from units import read

scores = read(sys.argv[1])
patients, drawn, rows = np.unique(scores.patient), weights(scores)[1:2001], []
positive = scores[(scores.label == 1) & scores.finding.notna()]
for place, units in positive.groupby(["method", "fraction", "finding"]):
    own = drawn[:, np.searchsorted(patients, units.patient)]
    called, there = own @ (units.predicted == 1), own.sum(axis=1)
    low, high = np.quantile(called[there > 0] / there[there > 0], [0.025, 0.975])
    rows.append((*place, (units.predicted == 1).mean(), low, high, units.patient.nunique()))
names = ["method", "fraction", "finding", "recall", "low", "high", "n_patients"]
pd.DataFrame(rows, columns=names).to_csv(sys.stdout, index=False)
