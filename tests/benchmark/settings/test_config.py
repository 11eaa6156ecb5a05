"""Layers of settings, and the messages about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.config import Config
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.presets import merge, parse_setting, presets, read_preset
from voxbench.benchmark.settings.resolve import resolve
from voxbench.datasets.base import DatasetError


def resolved(*settings: str, methods: tuple[str, ...] = ("supervised", "simclr")) -> Config:
    return resolve([read_preset("quick"), *(parse_setting(text) for text in settings)], methods)


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_valid_and_says_how_to_run_it(name: str) -> None:
    config = resolve([read_preset(name)], ["supervised", "residual", "byol", "simsiam", "simclr", "spark"])
    assert config.protocol.name in ("strict", "paper")
    assert "bench run" in presets()[name].splitlines()[1]


def test_later_layers_win_and_plugin_options_are_filled_in() -> None:
    config = resolved("finetune.steps=3", "methods.simclr.temperature=0.2", "encoder.depth=18")
    assert config.finetune.steps == 3
    assert config.methods["simclr"]["temperature"] == 0.2
    assert config.encoder.options["depth"] == 18
    assert "widths" in config.encoder.options


def test_a_resolved_configuration_resolves_to_itself() -> None:
    config = resolved()
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("finetune.step=3", r"finetune\.step: no such setting: did you mean steps"),
        ("finetunes.epochs=3", r"finetunes: no such setting: did you mean finetune"),
        ("encoder.dept=18", r"encoder\.dept: no such setting: did you mean depth"),
        ("methods.simclr.temprature=1", r"methods\.simclr\.temprature: no such setting: did you mean temperature"),
        ("methods.simcrl.temperature=1", r"methods\.simcrl: no such method: did you mean simclr"),
        ("finetune.lr=-1", r"finetune\.lr: input should be greater than 0 \(given: -1\)"),
        ("protocol.fractions=[0.1,2]", r"protocol\.fractions\.1: input should be less than or equal to 1"),
        ("dataset.name=sinus-fantom", "no dataset is called 'sinus-fantom': did you mean sinus-phantom"),
        ("augmentation.contrastiv.noise=[0,1]", "contrastive"),
        (
            "pretrain={optimizer: lars, weight_decay: 0.1, total_decay: 1}",
            "pretrain: value error, total_decay is of adamw",
        ),
        ("recipes.simcrl.pretrain.lr=1", r"recipes\.simcrl: no such method: did you mean simclr"),
        ("recipes.simclr.pretrein.lr=1", r"recipes\.simclr\.pretrein: no such setting: did you mean pretrain"),
        ("recipes.simclr.pretrain.ls=1", r"recipes\.simclr\.pretrain\.ls: no such setting: did you mean lr"),
        ("recipes.spark.finetune.lr=-1", r"recipes\.spark\.finetune\.lr: input should be greater than 0 \(given: -1\)"),
        ("recipes.simclr.finetune.selection=none", "is the same for all methods: set finetune.selection"),
        ("epochs", "expected key=value"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_one(setting: str, message: str) -> None:
    with pytest.raises((BenchError, DatasetError), match=message):
        resolved(setting)


def test_a_method_may_have_recipes_of_its_own() -> None:
    config = resolved("recipes.simclr.pretrain.lr=0.5", "recipes.simclr.finetune.steps=7", "recipes.byol.prior.batch=4")
    assert config.stage_recipe("simclr", "pretrain") == config.pretrain.model_copy(update={"lr": 0.5})
    assert config.stage_recipe("simclr@other", "pretrain").lr == 0.5  # under a further encoder too
    assert config.finetune_recipe("simclr") == config.finetune.model_copy(update={"steps": 7})
    assert config.stage_recipe("simclr", "prior") is config.prior
    assert config.stage_recipe("supervised", "pretrain") is config.pretrain
    assert set(config.recipes) <= set(config.methods)  # byol does not run
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(BenchError) as caught:
        resolved("finetune.lr=x", "pretrain.batch=1", "protocol.folds=1")
    assert len(str(caught.value).splitlines()) == 3


def test_unknown_names_and_files() -> None:
    with pytest.raises(BenchError, match="did you mean simclr"):
        resolved(methods=("simclrr",))
    with pytest.raises(BenchError, match=r"nowhere\.py: no such file"):
        resolved(methods=("nowhere.py:Mine",))
    with pytest.raises(BenchError, match="did you mean quick"):
        read_preset("quik")


def test_a_file_that_does_not_import_or_has_no_such_class(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nonexistent_package_xyz\n")
    with pytest.raises(BenchError, match=r"broken\.py: importing it fails: ModuleNotFoundError"):
        resolved(methods=(f"{broken}:Mine",))
    empty = tmp_path / "empty.py"
    empty.write_text("class Mime:\n    pass\n")
    with pytest.raises(BenchError, match="no class 'Mine': did you mean Mime"):
        resolved(methods=(f"{empty}:Mine",))
    with pytest.raises(BenchError, match="is not a subclass of voxbench's Method"):
        resolved(methods=(f"{empty}:Mime",))
    with pytest.raises(BenchError, match=r"which class of this file is the method\? Write .*empty\.py:CLASS"):
        resolved(methods=(str(empty),))


def test_a_class_is_known_by_its_name_and_its_file(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text("class A: ...\nclass B(A): ...\n")
    digests = [registry.source_digest("encoders", f"{file}:{name}") for name in "AB"]
    file.write_text("class A: ...\nclass B(A): x = 1\n")
    digests.append(registry.source_digest("encoders", f"{file}:B"))
    assert len({*digests, None}) == 4
    assert registry.source_digest("methods", "simclr") is None


def test_a_binary_preset_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BenchError, match="not a readable text file"):
        read_preset(str(tmp_path / "preset.yaml"))


def test_a_preset_may_be_laid_over_a_built_in_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: quick\nfinetune:\n  steps: 7\n")
    quick, laid = read_preset("quick"), read_preset(str(mine))
    assert laid == merge(quick, {"finetune": {"steps": 7}})
    mine.write_text("extends: quik\n")
    with pytest.raises(BenchError, match="extends: no built-in preset is called 'quik': did you mean quick"):
        read_preset(str(mine))


def test_the_papers_own_fine_tuning_selects_on_validation() -> None:
    paper, own = (resolve([read_preset(name)], ("supervised",)) for name in ("paper", "paper-recipe"))
    assert (paper.finetune.selection, own.finetune.selection) == ("none", "validation")
    assert paper.encoder == own.encoder
    assert own.finetune.steps_for(120) == 700  # 100 epochs of 7 full batches of 16


def test_merge_changes_neither_side() -> None:
    a, b = {"x": {"y": 1, "z": 2}}, {"x": {"y": 3}}
    assert merge(a, b) == {"x": {"y": 3, "z": 2}}
    assert a == {"x": {"y": 1, "z": 2}}
    assert b == {"x": {"y": 3}}


def test_lists_and_words_may_be_given_as_one_types_them() -> None:
    assert resolved("encoder.widths=8,8,16,16").encoder.options["widths"] == [8, 8, 16, 16]
    assert parse_setting("dataset.classes=[no,yes]") == {"dataset": {"classes": ["no", "yes"]}}
    for word in ("02", "010", "12:30", "1_000", "0x10", "2026-11-27"):
        assert parse_setting(f"dataset.positive={word}") == {"dataset": {"positive": word}}
    assert parse_setting("dataset.classes=[01,2,-3,1.5]") == {"dataset": {"classes": ["01", 2, -3, 1.5]}}
    assert parse_setting("encoder.max_pool=false") == {"encoder": {"max_pool": False}}


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "copy.py"
    file.write_text("from voxbench.methods.supervised import Supervised\nclass Mine(Supervised):\n    pass\n")
    with pytest.raises(BenchError, match="another method is called 'supervised'"):
        resolved(methods=("supervised", f"{file}:Mine"))


def test_options_of_methods_that_do_not_run_are_checked_too() -> None:
    with pytest.raises(BenchError, match="did you mean temperature"):
        resolved("methods.simclr.temprature=3", methods=("supervised",))
    with pytest.raises(BenchError, match="expected options by method"):
        resolved("methods=3")
