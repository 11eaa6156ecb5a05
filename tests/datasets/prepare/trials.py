"""Tables of where the sinuses of the five real heads, and of spoilt copies of them, are found and what is refused.

    python -m tests.datasets.prepare.trials [--heads t1,ct] [--variants plain,on-the-left,...|all] [--out trials.csv]

run from the repository's root. A row a side: how far the crop's centre lies from the sinus (NOTICE file of the head,
moved as the variant moves the head), the share of the sinus that the scan really holds, figures of quality, verdict.
`docs/prepare.md` has the tables made with it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from voxbench.datasets.prepare.limits import Limits
from voxbench.datasets.prepare.pyramid import Target, make_pyramid, make_target
from voxbench.datasets.prepare.quality import (
    SIDES,
    apply,
    head_figures,
    judge_head,
    judge_side,
    side_figures,
    sinus_points,
)
from voxbench.datasets.prepare.register import register
from voxbench.datasets.prepare.volume import Matrix, Volume, inside_scan, read_volume, to_grid

from . import heads, variants

TRUE_MM = 10.0  # a crop further away than this is wrong
COLUMNS = (
    "head", "variant", "side", "error_mm", "present", "verdict", "seconds", "information", "covered", "stretches",
    "turn", "inside", "around", "tissue", "least_sector", "likeness", "apart", "reasons",
)  # fmt: skip


def trial(target: Target, volume: Volume, known: Matrix, *, spoilt: bool) -> Iterator[dict[str, str]]:
    """Lay the reference on one scan; a row a side. `spoilt`: refusing it is right."""
    began = time.process_time()
    pyramid = make_pyramid(to_grid(volume, 2.0))
    found = register(target, pyramid, heads.CENTROIDS, seed=0)
    seconds = time.process_time() - began
    head = head_figures(found)
    whole = judge_head(head, Limits())
    for side, place, truth in zip(SIDES, heads.CENTROIDS, known, strict=True):
        figures = side_figures(target, volume, pyramid, found, place, side)
        reasons = whole + judge_side(figures, Limits())
        error = float(np.linalg.norm(apply(found.transform, place[None])[0] - truth))
        present = float(inside_scan(volume, sinus_points(truth), filled=True).mean())
        yield {
            "side": side, "error_mm": f"{error:.1f}", "present": f"{present:.2f}",
            "verdict": verdict(error, present, refused=bool(reasons), spoilt=spoilt), "seconds": f"{seconds:.0f}",
            "information": f"{head.information:.3f}", "covered": f"{head.covered:.2f}",
            "stretches": " ".join(f"{s:.2f}" for s in head.stretches), "turn": f"{head.turn:.0f}",
            "inside": f"{figures.inside:.2f}", "around": f"{figures.covered:.2f}",
            "likeness": f"{figures.likeness:.2f}",
            "tissue": f"{figures.tissue:.2f}",
            "least_sector": f"{min(figures.sectors.values(), default=np.nan):.2f}", "apart": f"{figures.agreement:.1f}",
            "reasons": "; ".join(reasons),
        }  # fmt: skip


def verdict(error: float, present: float, *, refused: bool, spoilt: bool) -> str:
    """In a word, whether taking or refusing this sinus was right."""
    if not refused:
        return "WRONG" if error > TRUE_MM else "taken, spoilt" if spoilt else "taken"
    return "refused" if spoilt or present < 0.95 else "refused, good" if error <= TRUE_MM else "refused, lost"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description="Where sinuses are found in real heads and spoilt copies of them.")
    parser.add_argument("--heads", default=",".join(heads.HEADS))
    parser.add_argument("--variants", default="plain", help=f"all, or some of {', '.join(variants.VARIANTS)}")
    parser.add_argument("--out", type=Path, help="CSV to append to as well")
    args = parser.parse_args()
    names = list(variants.VARIANTS) if args.variants == "all" else args.variants.split(",")
    target = make_target(to_grid(read_volume(heads.REFERENCE), 2.0))
    writers = [csv.DictWriter(sys.stdout, COLUMNS)]
    if args.out is not None:
        writers.append(csv.DictWriter(args.out.open("a", buffering=1), COLUMNS))
    for writer in writers:
        writer.writeheader()
    for variant in names:
        for name in args.heads.split(","):
            head, change = heads.HEADS[name], variants.VARIANTS[variant]
            volume, known = change.apply(head.read(), np.array(head.centroids))
            for row in trial(target, volume, known, spoilt=change.spoilt or not head.whole):
                for writer in writers:
                    writer.writerow({"head": name, "variant": variant, **row})
            sys.stdout.flush()


if __name__ == "__main__":
    main()
