"""What a run makes of methods and encoders that break the contract, or read other files than their own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.errors import BenchError
from voxbench.reports.reading.grid import build_grid
from voxbench.reports.reading.run_folder import read_run

Bench = Callable[..., int]
Planned = Callable[..., Run]
HERE = Path(__file__).parents[1] / "checking"
MISTAKES, ENCODERS = HERE / "mistakes.py", HERE / "encoders.py"
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
DEAF = f"{ENCODERS}:Deaf"
PUBLISHED = """
import torch
from pathlib import Path
from voxbench.methods.base import Method, Options, Weights
import helper

class Published(Method):
    name = "published"
    about = "weights from elsewhere"

    class Options(Options):
        file: str

    def __init__(self, encoder, options, shape):
        super().__init__(encoder, options, shape)
        self.weights = Weights(file=Path(options.file), seen=helper.SEEN)
        encoder.load_state_dict(torch.load(options.file))

    def stages(self):
        return ()
"""


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def stages(run: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("stages/*/stage.json"))]


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("DetachedFeatures", "detached-features, stage only: did not train the encoder (0 of 8 tensors changed): the"),
        ("UnderNoGrad", "no-grad, stage only: no volume passes through the encoder with gradients at its first step"),
        ("TrainsACopy", "(a copy of it is trained)"),
        ("FinishZeroes", "finish-zeroes, stage only: its finish left the encoder with the same features"),
        ("TrainsInPrior", "its budget is 'prior', and it trained the encoder (8 of 8 tensors changed)"),
        ("FlatEmbedding", "its embed gives [40] for 40 volumes"),
        ("SmallTargets", "its targets give [1, 1, 16, 16, 8] for volumes [1, 1, 16, 16, 16]"),
        ("FloatLoss", "float-loss, stage only: the loss is a float"),
    ],
)
def test_a_method_without_a_trained_encoder_has_no_row_that_looks_right(
    bench: Bench, tmp_path: Path, mistake: str, said: str
) -> None:
    code = bench(("dataset.size=16",), methods=f"{MISTAKES}:{mistake}", encoder=DEAF)
    found = rows(tmp_path / "run")
    assert code == 1
    assert {row["status"] for row in found} == {"failed"}
    assert all(said in row["error"] for row in found), found[0]["error"]


def test_spark_on_one_level_is_refused_before_anything_is_trained(planned: Planned) -> None:
    run = planned(("dataset.size=16",), methods="spark,supervised", encoder=f"{ENCODERS}:OneLevel")
    assert "with one level, what is predicted of a masked patch does not" in run.plan.skipped["spark"]
    assert {cell.method for cell in run.plan.cells.values()} == {"supervised"}


def test_a_method_that_masks_needs_an_encoder_that_heeds_it(planned: Planned) -> None:
    run = planned(("dataset.size=16",), methods="spark,supervised", encoder=DEAF)
    assert run.plan.skipped["spark"].startswith("encoder deaf does not heed `visible`")


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("WrongWidths", r"encoder wrong-widths: for volumes \[2, 1, 16, 16, 16\] its pyramid is .* promise"),
        ("WrongStrides", r"encoder wrong-strides: .* its widths \(4, 8\) and strides \(2, 8\) promise"),
        ("FallingStrides", r"encoder falling-strides: its strides are \(4, 2\): fine to coarse"),
        ("NoWidths", r"encoder no-widths: its widths are None"),
        ("Detached", "encoder detached: no gradient reaches its parameters"),
        ("Failing", r"encoder failing fails on volumes of this data set: RuntimeError.*\(encoders.py, line \d+\)"),
    ],
)
def test_an_encoder_that_is_wrong_is_named_when_planning(planned: Planned, encoder: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        planned(("dataset.size=16",), encoder=f"{ENCODERS}:{encoder}")


def test_parameters_that_nothing_trains_are_noted(planned: Planned) -> None:
    run = planned(("dataset.size=16",), encoder=f"{ENCODERS}:Unused")
    assert any("1 of 9 parameters get no gradient, first extra" in note for note in run.plan.notes)


def test_the_budget_is_of_passes_wherever_they_happen(bench: Bench, tmp_path: Path) -> None:
    methods = f"{MISTAKES}:Right,{MISTAKES}:HiddenPasses,{EXAMPLES / 'moco.py'}:MoCo"
    assert bench(("dataset.size=16", "pretrain.volumes=128"), methods=methods, encoder=DEAF) == 0
    found = {stage["method"]: stage for stage in stages(tmp_path / "run")}
    assert {name: (one["steps"], one["volumes"], one["volumes_forward"]) for name, one in found.items()} == {
        "right": (8, 128.0, 0.0),
        "hidden-passes": (1, 128.0, 0.0),  # 8 times two views of 8 volumes in its one step
        "moco": (16, 128.0, 128.0),
    }
    for row in rows(tmp_path / "run"):
        assert float(row["pretrain_volumes"]) == 128
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "right 128, hidden-passes 128 and moco 128 (and 128 forward)" in page


def test_a_masked_pass_counts_what_is_computed(bench: Bench, tmp_path: Path) -> None:
    vit = ("dataset.size=16", "encoder.patch=4", "encoder.width=32", "encoder.depth=2", "pretrain.volumes=64")
    encoder, mae = f"{EXAMPLES / 'vit.py'}:ViT", f"{EXAMPLES / 'mae.py'}:MAE"
    assert bench(vit, methods=mae, encoder=encoder, fractions="1.0") == 0
    (stage,) = stages(tmp_path / "run")
    assert 0.25 < stage["volumes_per_step"] / 8 < 0.4  # a quarter of the patches, a class token, all embeddings
    assert 64 <= stage["volumes"] < 64 + stage["volumes_per_step"]


def test_weights_of_a_method_are_kept_and_named_and_their_file_is_in_the_key(
    bench: Bench, planned: Planned, tmp_path: Path
) -> None:
    (tmp_path / "published.py").write_text(PUBLISHED)
    (tmp_path / "helper.py").write_text("SEEN = '4,000 heads of another hospital'\n")
    given = {"methods": f"supervised,{tmp_path / 'published.py'}:Published", "encoder": DEAF}
    settings = ("dataset.size=16", f"methods.published.file={tmp_path / 'weights.pt'}")
    with pytest.raises(BenchError, match=r"Published cannot be made: FileNotFoundError"):
        bench(settings, **given)
    _weights(tmp_path / "weights.pt", 1)
    first = planned(settings, **given)
    assert bench(settings, **given) == 0
    cells = {cell.method: key for key, cell in first.plan.cells.items() if cell.fold == 0}
    starts = {row["method"]: row["start"] for row in rows(tmp_path / "run")}
    assert starts["supervised"] == ""
    assert starts["published"].startswith("weights.pt (SHA-256 ")
    assert starts["published"].endswith("said to have seen: 4,000 heads of another hospital")
    assert build_grid(read_run(tmp_path / "run")).baseline == "supervised"
    assert (
        "whether tested patients are among that is not known here" in (tmp_path / "run/report/index.html").read_text()
    )
    _weights(tmp_path / "weights.pt", 2)
    others = {cell.method: key for key, cell in planned(settings, **given).plan.cells.items() if cell.fold == 0}
    assert others["supervised"] == cells["supervised"]
    assert others["published"] != cells["published"]


def _weights(path: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(registry.load("encoders", DEAF)(None, 1).state_dict(), path)


def test_what_a_file_imports_from_beside_it_is_in_the_key(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom mistakes import Right\nfrom near import deep\n\n"
        "class Mine(Right):\n    name = 'mine'\n    read = '1'\n    def digest(self): return self.read\n"
    )
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "__init__.py").write_text("from .other import x\n")
    (tmp_path / "near" / "deep.py").write_text("x = 1\n")
    (tmp_path / "near" / "other.py").write_text("x = 1\n")

    def keys() -> set[str]:
        return set(planned(("dataset.size=16",), methods=f"{tmp_path / 'mine.py'}:Mine", encoder=DEAF).plan.stages)

    seen = [keys()]
    for name in ("deep", "other", "__init__"):
        (tmp_path / "near" / f"{name}.py").write_text("from .other import x\ny = 22\n")
        seen.append(keys())
    registry.load("methods", f"{tmp_path / 'mine.py'}:Mine").read = "2"  # what its digest says has changed
    seen.append(keys())
    assert not any(one & other for n, one in enumerate(seen) for other in seen[:n])


def test_options_of_the_presets_encoder_are_not_those_of_another(planned: Planned) -> None:
    run = planned(("dataset.size=16",), encoder=f"{EXAMPLES / 'vit.py'}:ViT")
    assert run.config.encoder.options == {"patch": 8, "width": 96, "depth": 4, "heads": 4}


def test_one_bad_method_does_not_end_a_run_of_all(planned: Planned) -> None:
    bad = ",".join(f"{MISTAKES}:{name}" for name in ("UnknownAugmentation", "NoStages", "NoViews", "BadInit"))
    run = planned(("dataset.size=16",), methods=f"supervised,{bad}", encoder=DEAF)
    assert {cell.method for cell in run.plan.cells.values()} == {"supervised"}
    assert set(run.plan.skipped) == {"unknown-augmentation", "no-stages", "no-views", "bad-init"}


def test_two_encoders_stand_in_one_table_each_method_under_each(bench: Bench, planned: Planned, tmp_path: Path) -> None:
    vit, small = f"{EXAMPLES / 'vit.py'}:ViT", ("dataset.size=16", "encoders.vit.width=32", "encoders.vit.patch=4")
    methods = ",".join(f"{EXAMPLES / name}" for name in ("dino.py:DINO", "moco.py:MoCo", "mae.py:MAE"))
    methods = f"supervised,block-means,spark,{methods}"
    given = {"methods": methods, "encoder": f"resnet,{vit}", "fractions": "1.0"}
    resnet = ("encoder.stem_stride=1", "encoder.widths=4,4,8,8")
    skipped = planned((*small, *resnet), **given).plan.skipped
    assert list(skipped) == ["spark@vit"]  # one level
    given["methods"] = methods.replace("spark,", "")
    assert bench((*small, *resnet), **given) == 0
    found = rows(tmp_path / "run")
    names = {(row["method"], row["encoder"], row["status"]) for row in found}
    trained = ("supervised", "dino", "moco", "mae")
    assert names == {
        ("block-means", "resnet", "ok"),
        *((name, "resnet", "ok") for name in trained),
        *((f"{name}@vit", "vit", "ok") for name in trained),
    }
    alone = planned((*small[:1], "encoder.width=32", "encoder.patch=4"), **{**given, "encoder": vit})
    together = planned((*small, *resnet), **given)
    assert {key for key, cell in alone.plan.cells.items() if cell.method == "mae"} == {
        key for key, cell in together.plan.cells.items() if cell.method == "mae@vit"
    }
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "mae@vit" in page
    kept = tmp_path / "run" / "plugins"
    assert {str(path.relative_to(kept)) for path in kept.rglob("*.py")} == {
        f"{name}/{name}.py" for name in ("dino", "moco", "mae", "vit")
    }
