import json
from pathlib import Path
from typing import Any

import pytest
import wandb

from voxbench.benchmark.tracking import dashboard
from voxbench.benchmark.tracking.publish import TrackingError
from voxbench.benchmark.tracking.record import Records


def spec_of(run: Path) -> dict[str, Any]:
    model = dashboard.build(Records(run), "study", "team")._to_model()
    loaded: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return loaded["section"]


def test_the_workspace_shows_the_fraction_plot_the_table_curves_and_costs(run: Path) -> None:
    spec = spec_of(run)
    sections = {section["name"]: section["panels"] for section in spec["panelBankConfig"]["sections"]}
    chart, table, _ = sections["AUPRC by label fraction"]
    columns = wandb.Table(columns=["method", "fraction", "auprc"])
    plot = wandb.plot.line(columns, "fraction", "auprc", stroke="method")
    plot.set_key("label_fraction")
    logged = plot.spec.config_value["panel_config"]
    for part in ("panelDefId", "fieldSettings", "transform"):
        assert chart["config"][part] == logged[part]  # the same chart as the run's own
    assert '"label_fraction_table"' in json.dumps(chart)
    assert table["config"]["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"] == "results"
    metrics = [panel["config"].get("metrics") for panel in sections["Pretraining"]]
    assert metrics == [["pretrain/loss"], ["pretrain/collapse"], ["pretrain/lr"]]
    cost = sections["Cost"][0]["config"]
    assert (cost["xAxis"], cost["yAxis"]) == ("summary:cost/pretrain_seconds", "summary:auprc")


def test_it_groups_the_experiment_by_method_and_fraction(run: Path) -> None:
    (runs,) = spec_of(run)["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["method.value", "fraction.value"]
    assert Records(run).experiment in json.dumps(runs["filters"])
    assert "/mnt" not in json.dumps(spec_of(run))


def test_without_a_server_it_is_one_clear_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(dashboard, "CONNECT_TIMEOUT_S", 2)
    with pytest.raises(TrackingError, match="no dashboard was made: ") as caught:
        dashboard.save(run, "study", "team")
    assert "\n" not in str(caught.value)
    assert not (run / "wandb" / "dashboards.json").exists()
