"""`bench check`: every planted mistake has a line that names it, and right methods have none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from voxbench.benchmark.checking.encoder_rules import check_encoder
from voxbench.benchmark.checking.method_rules import check_method
from voxbench.benchmark.checking.trial import Bench
from voxbench.benchmark.checking.verdict import Verdict
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.presets import parse_setting, read_preset
from voxbench.benchmark.settings.resolve import resolve
from voxbench.datasets.sinus.phantom import SinusPhantom
from voxbench.datasets.volumes.bank import VolumeBank, open_bank

from ...conftest import Typed

HERE = Path(__file__).parent
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
SMALL = (f"encoder.name={HERE / 'encoders.py'}:Deaf", "dataset.size=16", "pretrain.lr=0.002")
RESNET = ("encoder.name=resnet", "encoder.depth=10", "encoder.widths=4,4,8,8", "encoder.max_pool=false")
MISTAKES = {
    "DetachedLoss": "the loss depends on no parameter",
    "DetachedFeatures": "the loss does not depend on its features: they are detached",
    "NotANumberAtOnce": "it is nan at the first step",
    "NotANumberLater": "the loss is nan at step 3",
    "VectorLoss": r"the loss has shape \[6\]: return a scalar",
    "FloatLoss": "the loss is a float",
    "FlatEmbedding": r"embed gives \[6\] for 6 volumes",
    "SmallTargets": r"targets give \[6, 1, 16, 16, 8\] for volumes \[6, 1, 16, 16, 16\]",
    "BadInit": r"BadInit cannot be made: AttributeError: .*no_such_option",
    "NoStages": r"method no-stages: stages\(\) gives None",
    "NoViews": "method no-views, stage only: views=0",
    "OtherEncoder": "puts another encoder in the place",
    "LargerEncoder": r"changes what the encoder is made of \(mask_token\)",
    "ExtraState": "state has '_extra_state', which is no tensor",
    "UnderNoGrad": r"did not train the encoder \(0 of \d+ tensors changed\): the loss calls it under no_grad",
    "OutsideModule": "method outside, stage only: the encoder is not in its module",
    "TrainsACopy": r"did not train the encoder .* \(a copy of it is trained\)",
    "PlainState": "something that it goes by is not in its module's parameters and buffers|give .*, then",
    "GlobalRandom": "draws from PyTorch's global generator",
    "InPlace": "changes its views in place",
    "LazyHead": "head.weight has no size yet",
    "SameNames": "two of its stages are called 'only'",
    "SmallReconstruction": r"reconstruct gives \[6, 1, 8, 16, 16\]",
    "UnknownAugmentation": "no augmentation is called 'geometry': did you mean geometric",
    "WrongSign": "views of one volume .* times as far apart as views of different ones .*: has it the wrong sign",
    "WrongSignOfOneView": "falls ever faster, .* has it the wrong sign",
    "OneViewTwice": r"views\[1\] can be any other volumes",
    "FinishZeroes": "finish leaves the encoder with the same features for every volume",
    "HiddenPasses": "for each volume of its views 8 pass forward and backward",
    "HalfLoss": "it is torch.bfloat16: compare in float32",
    "TrainsInPrior": "its budget is 'prior', and it trained the encoder",
    "NothingTrained": "it has no loss, so nothing is trained: then it has a finish, and budget='prior'",
    "HoldsOutForNothing": "it holds volumes out, and has no finish",
    "ForgetsItsImage": "saved and loaded, its figure is .*parameters and buffers",
    "DrawnAnew": "anchor differs from one making to the next",
}
Check = Callable[..., list[Verdict]]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> VolumeBank:
    options = SinusPhantom.Options(patients=6, pool_patients=2, size=16)
    return open_bank(SinusPhantom(options), tmp_path_factory.mktemp("cache"))


def configured(method: str, *settings: str) -> Config:
    return resolve([read_preset("quick"), *map(parse_setting, (*SMALL, *settings))], [method])


@pytest.fixture
def check(bank: VolumeBank) -> Check:
    """Verdicts on a method."""
    torch.set_num_threads(1)

    def run(method: str, *settings: str) -> list[Verdict]:
        config = configured(method, *settings)
        return list(check_method(Bench(config=config, name=next(iter(config.methods)), bank=bank)))

    return run


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(check: Check, mistake: str) -> None:
    found = [one for one in check(f"{HERE / 'mistakes.py'}:{mistake}") if one.outcome != "ok"]
    assert [one.outcome for one in found][:1] == ["note" if mistake == "HiddenPasses" else "broken"]
    assert any(re.search(MISTAKES[mistake], one.said) for one in found), found
    assert all("\n" not in one.said for one in found)


@pytest.mark.parametrize(
    "method", ["simclr", "byol", "simsiam", "residual", "residual-median", "spark", "supervised", "random-encoder"]
)
def test_no_alarm_for_our_own_methods(check: Check, method: str) -> None:
    stride = 1 if method == "spark" else 2  # at 16^3 a larger one leaves one patch
    found = check(method, *RESNET, "encoder.stem_kernel=3", f"encoder.stem_stride={stride}")
    assert [one for one in found if one.outcome != "ok"] == []


@pytest.mark.parametrize(
    ("method", "encoder"),
    [
        ("moco.py:MoCo", None),
        ("dino.py:DINO", None),
        ("rotation.py:Rotation", None),
        ("mae.py:MAE", "vit.py:ViT"),
        ("simmim.py:SimMIM", "vit.py:ViT"),
        ("dino.py:DINO", "vit.py:ViT"),
    ],
)
def test_no_alarm_for_right_methods_of_others(check: Check, method: str, encoder: str | None) -> None:
    vit = () if encoder is None else (f"encoder.name={EXAMPLES / encoder}", "encoder.patch=4", "encoder.width=32")
    assert [one for one in check(f"{EXAMPLES / method}", *vit) if one.outcome != "ok"] == []


def test_no_alarm_for_the_right_one_of_the_mistakes(check: Check) -> None:
    assert [one for one in check(f"{HERE / 'mistakes.py'}:Right") if one.outcome != "ok"] == []


def test_a_method_that_leaves_itself_out_is_no_mistake(check: Check) -> None:
    (only,) = check(f"{EXAMPLES / 'simmim.py'}:SimMIM")
    assert only.outcome == "note"
    assert "it leaves itself out: simmim needs an encoder with a mask token's place" in only.said


def test_an_encoder_that_heeds_no_mask_is_told_so() -> None:
    config = configured("supervised")
    found = {one.rule: one for one in check_encoder(config, (1, 16, 16, 16))}
    assert [one.outcome for one in found.values()] == ["ok", "ok", "ok", "ok", "note", "ok"]
    assert "does not heed `visible`" in found["it can be asked for visible places only"].said


def test_the_command_says_a_line_a_rule(typed: Typed, cache: Path) -> None:
    words = ("--size", "16", "--cache", cache, "--encoder", f"{HERE / 'encoders.py'}:Deaf")
    code, out, err = typed("check", f"{HERE / 'mistakes.py'}:OneViewTwice", *words)
    assert (code, err) == (1, "")
    assert "FAIL stage only: every view is used: views[1] can be any other volumes" in out
    assert "rules are broken: see FAIL above" in out
    code, out, _ = typed("check", *words)
    assert code == 0 and "method right" not in out and "all rules hold" in out
