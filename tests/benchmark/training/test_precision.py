"""What training computes in: chosen by a rule, said with each result, and close to float32 for every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from voxbench.benchmark.running.runner import Run
from voxbench.benchmark.running.setup import Setup
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.training import precision, speed
from voxbench.benchmark.training.precision import dtype_for, holds
from voxbench.benchmark.training.train import optimise, start

CPU = torch.device("cpu")
STEPS = 10
FIRST = 0.02  # bfloat16 keeps 8 bits: relative difference of the first loss, on the same weights and volumes
LATER = 0.1  # and of the mean over the last five of ten steps, after which the weights have parted
METHODS = "residual,byol,simsiam,simclr,spark,supervised"


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Lets the processor have AMX, or not."""
    return lambda there: monkeypatch.setattr(precision, "has_amx", lambda: there)


def test_the_rule(amx: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    amx(False)
    assert dtype_for("auto", CPU) == torch.float32
    assert dtype_for("auto", torch.device("cuda")) == torch.bfloat16
    assert dtype_for("float32", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(precision, "_gradients", lambda kind: torch.tensor([1.0, float("nan")]))
    holds.cache_clear()
    amx(True)
    assert dtype_for("auto", CPU) == torch.float32  # there, and wrong
    with pytest.raises(BenchError, match="--precision bfloat16: this processor"):
        dtype_for("bfloat16", CPU)
    holds.cache_clear()


def test_numbers_that_are_far_off_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.tensor([3.0, 4.0])
    for error, right in ((0.01, True), (0.2, False)):
        found = {torch.float32: exact, torch.bfloat16: exact * (1 + error)}
        monkeypatch.setattr(precision, "_gradients", found.__getitem__)
        holds.cache_clear()
        assert holds() == right
    holds.cache_clear()


needs_bfloat16 = pytest.mark.skipif(not holds(), reason="bfloat16 of this processor is not right")


@needs_bfloat16
@pytest.mark.parametrize("name", METHODS.split(","))
def test_losses_are_near_those_in_float32(planned: Callable[..., Run], name: str) -> None:
    run = planned(("dataset.patients=12",), methods=METHODS, fractions="1.0")

    def losses(kind: str) -> list[list[float]]:
        runtime = run.runtime.model_copy(update={"precision": kind})
        with Setup(config=run.config, runtime=runtime, bank=run.bank.folder, provenance={}).opened() as context:
            works = [speed.finetuning(context)] if name == "supervised" else speed.workloads(context, name)
            found = []
            for work in works:
                training = start(work.module, work.recipe, STEPS, work.groups, work.precision)
                optimise(training, work.loss, work.loader, work.recipe, hooks=work.hooks)
                found.append([point["loss"] for point in training.curve])
            return found

    for exact, rough in zip(losses("float32"), losses("bfloat16"), strict=True):
        assert exact != rough
        scale = 1.0 if name == "simsiam" else 0.1  # a mean of cosines, from -1 to 1
        assert rough[0] == pytest.approx(exact[0], rel=FIRST, abs=FIRST * scale)
        late = [sum(one[-5:]) / 5 for one in (exact, rough)]
        assert late[1] == pytest.approx(late[0], rel=LATER, abs=LATER * scale)


@needs_bfloat16
def test_a_result_says_what_it_was_computed_in(bench: Callable[..., int], tmp_path: Path) -> None:
    assert bench(methods="supervised,simclr,pca", precision="bfloat16") == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv").set_index("method")["device"]
    assert set(rows["supervised"]) == set(rows["simclr"]) == {"cpu in bfloat16"}
    assert set(rows["pca"]) == {"cpu"}
    table = (tmp_path / "run" / "report" / "table.md").read_text()
    assert "(cpu in bfloat16)" in table
