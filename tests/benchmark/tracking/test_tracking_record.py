import itertools
import json
import os
from pathlib import Path

import pytest
import yaml
from sklearn.metrics import average_precision_score

from voxbench.benchmark.settings import registry
from voxbench.benchmark.tracking.outgoing import Redactor, error_name, public_settings
from voxbench.benchmark.tracking.record import Records, label_fraction, pr_curve
from voxbench.benchmark.tracking.sync import Syncer


def by_name(run: Path) -> dict[str, object]:
    records = Records(run)
    return {entry.name: entry for path in records.paths() if (entry := records.entry(path)) is not None}


def test_ids_follow_from_results_and_not_from_the_folder(run: Path, tmp_path: Path) -> None:
    moved = run.rename(tmp_path / "elsewhere")
    first = {name: entry.id for name, entry in by_name(moved).items()}
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(
        config.replace("/mnt/ward7", "/home/other").replace("seeds:\n  - 0", "seeds: [0, 1]")
    )
    assert {name: entry.id for name, entry in by_name(moved).items()} == first
    assert len(set(first.values())) == 4
    (moved / "config.yaml").write_text(config.replace("depth: 10", "depth: 18"))
    assert not set(first.values()) & {entry.id for entry in by_name(moved).values()}


def test_a_replaced_result_is_not_shown(run: Path) -> None:
    old = next((run / "cells" / "byol").glob("*.json"))
    record = json.loads(old.read_text())
    other = old.with_name("older.json")
    other.write_text(json.dumps({**record, "key": "older"}))
    newer = other.stat().st_mtime
    os.utime(run / "results.csv", (newer + 1, newer + 1))
    records = Records(run)
    assert records.entry(other) is None
    assert records.entry(old) is not None
    os.utime(other, (newer + 9, newer + 9))  # newer than the table: a run that is not yet collected
    assert Records(run).entry(other) is not None


def test_a_stage_that_no_result_builds_on_is_not_shown(run: Path) -> None:
    stage = run / "stages" / "stage1" / "stage.json"
    old = run / "stages" / "older" / "stage.json"
    old.parent.mkdir()
    old.write_text(json.dumps({**json.loads(stage.read_text()), "key": "older"}))
    now = old.stat().st_mtime
    os.utime(run / "results.csv", (now + 1, now + 1))
    records = Records(run)
    assert records.entry(old) is None
    assert records.entry(stage) is not None
    os.utime(old, (now + 9, now + 9))  # newer than the table: the cells that build on it are still to come
    assert Records(run).entry(old) is not None
    old.write_text(json.dumps({"result_version": 1, "key": "older", "status": "failed", "error": "no"}))
    os.utime(old, (now, now))
    broken = next(p for p in (run / "cells" / "byol").glob("*.json") if json.loads(p.read_text())["status"] == "failed")
    broken.write_text(json.dumps({**json.loads(broken.read_text()), "stages": ["older"]}))
    os.utime(broken, (now, now))
    entry = Records(run).entry(old)
    assert entry is not None  # a failed cell builds on it
    assert entry.failed


def test_a_stage_is_sent_as_soon_as_the_table_has_a_result_of_it(run: Path) -> None:
    table = run / "results.csv"
    text = table.read_text()
    table.write_text(text.splitlines()[0] + "\n")
    syncer = Syncer(run, "offline", "study")
    syncer.sync(final=False)
    assert not list((run / "wandb").glob("offline-run-*-stage-*"))
    table.write_text(text)
    syncer.sync(final=False)
    assert len(list((run / "wandb").glob("offline-run-*-stage-*"))) == 1


def test_pr_curve_gives_the_average_precision() -> None:
    scores = [{"label": label, "scores": [1 - s, s]} for label, s in [(0, 0.1), (0, 0.4), (1, 0.35), (1, 0.8)]]
    table = pr_curve(scores, ["normal", "anomalous"])
    points = [(recall, precision) for name, recall, precision in table.rows if name == "anomalous"]
    area = sum((a[0] - b[0]) * a[1] for a, b in itertools.pairwise(points))
    assert area == pytest.approx(average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]))


def test_pr_curves_of_many_classes_and_points_stay_small() -> None:
    scores = [{"label": i % 3, "scores": [i / 5000, 1 - i / 5000, 0.0]} for i in range(5000)]
    table = pr_curve(scores, ["a", "b"])
    assert {row[0] for row in table.rows} == {"a", "b", "class 2"}
    assert len(table.rows) <= 1200
    points = [row[1:] for row in table.rows if row[0] == "a"]
    assert (points[0][0], points[-1]) == (1.0, [0.0, 1.0])  # both ends are kept


def test_label_fraction_table() -> None:
    rows = [
        {"method": "a", "fraction": "0.1", "auprc": auprc, "status": status}
        for auprc, status in [("0.5", "ok"), ("0.7", "ok"), ("", "failed")]
    ] + [{"method": "b", "fraction": "1.0", "auprc": "0.9", "status": "ok"}]
    table = label_fraction(rows)
    assert table.rows == [["a", 0.1, pytest.approx(0.6), pytest.approx(0.2 / 2**0.5), 2], ["b", 1.0, 0.9, None, 1]]


def test_settings_lose_paths_and_nothing_else() -> None:
    own = {"out": 128, "root": 2, "cache": True, "sources": [1], "data_root": "x", "source": "y"}
    given = {
        "dataset": {"name": "x", "depth": 10, "source": "ward.py:Mine", "root": "ward", "cache": "ward", "out": 3},
        "encoder": {"name": "e", "source": "ward.py:Mine", "out": 4},
        "methods": {"byol": own, "other": {"file": "/a/b", "home": "~x", "win": "C:\\x", "in": [{"p": "a/b"}, 1]}},
        "sources": {"byol": "ward.py:BYOL"},
        "protocol": {"seeds": [0], "out": 5},
    }
    gone = "(left out)"
    assert public_settings(given) == {
        "dataset": {"name": "x", "depth": 10, "out": 3},
        "encoder": {"name": "e", "out": 4},
        "methods": {"byol": own, "other": {"file": gone, "home": gone, "win": gone, "in": [{"p": gone}, 1]}},
        "protocol": {"seeds": [0], "out": 5},
    }


def test_every_option_of_every_method_is_there(run: Path) -> None:
    """Of the methods that come with voxbench: an entry's config names them all, `out` too."""
    path = run / "config.yaml"
    kinds = {name: registry.load("methods", name) for name in registry.names("methods")}
    shipped = {name: kind.Options().model_dump(mode="json") for name, kind in kinds.items()}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "methods": shipped}))
    entry = Records(run).entry(run / "stages" / "stage1" / "stage.json")
    assert entry is not None
    assert entry.config["settings"]["method"] == shipped["byol"]
    assert entry.config["settings"]["method"]["out"] > 0
    assert public_settings({"methods": shipped}) == {"methods": shipped}


def test_error_name() -> None:
    chained = (
        "Traceback (most recent call last):\n  x\nKeyError: 'a'\n\nDuring ...\n\na.b.BenchError: volume 7: bad\n  more"
    )
    assert error_name({"traceback": chained}) == "BenchError"
    assert error_name({"error": "volume 7"}) == "Error"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("reads /data/study a/x.nii.gz here", "reads (left out) here"),
        ("in C:\\Users\\ann\\x now", "in (left out) now"),
        ("~/volumes/x", "(left out)"),
        ('<a href="https://arxiv.org/abs/2404.18599">x</a><br/>1/2 GPU/h', None),
        ("p0123456789ab, v0123456789ab", "(left out), (left out)"),
        ("MUSTER-ERIKA-1961's scan_0417_left.", "(left out)'s (left out)."),
        ("font: 12px/1.5 a; d='M0 0L1/2'; x.replace(/a/g, 1) 2024/05/06", None),
        ('<img src="data:image/png;base64,AAAA/home/ann/xx+/ab/cdef/p0123456789ab">', None),
    ],
)
def test_redactor(run: Path, text: str, left: str | None) -> None:
    assert Redactor(run).text(text) == (text if left is None else left)


def test_why_slices_were_not_drawn_stays_at_home_too(run: Path) -> None:
    path = run / "stages" / "stage1" / "stage.json"
    told = "ValueError: no slice of Miller's head"
    path.write_text(json.dumps({**json.loads(path.read_text()), "showcase_error": told}))
    assert Redactor(run).text(f"<li>{told.replace(chr(39), '&#39;')}</li>") == "<li>Error (left out)</li>"
