"""python findings.py RUN: recall by finding with Wilson's interval (two classes)."""

import sys

import numpy as np
import pandas as pd
from resample import Z, weights
from units import read

scores = read(sys.argv[1])
patients, drawn, rows = np.unique(scores.patient), weights(scores)[1:], []
positive = scores[(scores.label == 1) & scores.finding.notna()]
for place, units in positive.groupby(["method", "fraction", "finding"]):
    own = drawn[:, np.searchsorted(patients, units.patient)]
    called, there = own @ (units.predicted == 1), own.sum(axis=1)
    error = np.std(called[there > 0] / there[there > 0], ddof=1)
    p, count = (units.predicted == 1).mean(), units.patient.nunique()
    facts = min(max(count, p * (1 - p) / error**2 if error > 0 else 0), len(units))
    centre, scale = p + Z**2 / (2 * facts), 1 + Z**2 / facts
    reach = Z * np.sqrt(p * (1 - p) / facts + Z**2 / (4 * facts**2))
    rows.append((*place, p, max(0, (centre - reach) / scale), min(1, (centre + reach) / scale), count))
names = ["method", "fraction", "finding", "recall", "low", "high", "n_patients"]
pd.DataFrame(rows, columns=names).to_csv(sys.stdout, index=False)
