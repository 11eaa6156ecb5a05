"""The W&B workspace of an experiment, made by program: label-fraction plot, table, curves, costs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import wandb

with warnings.catch_warnings():
    # wandb-workspaces 0.4 still has validators in pydantic's older style.
    warnings.simplefilter("ignore", DeprecationWarning)
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces
    from wandb_workspaces.expr import And, Config, Ordering

from voxbench.benchmark.records.store import read_json, write_json
from voxbench.benchmark.settings.keys import digest
from voxbench.benchmark.tracking.publish import TrackingError, one_line
from voxbench.benchmark.tracking.record import Records

LINE_CHART = "wandb/line/v0"  # what wandb.plot.line draws with
CONNECT_TIMEOUT_S = 20


def build(records: Records, project: str, entity: str) -> Any:
    """The workspace: all runs of one experiment, grouped by method and fraction."""
    sections = [
        workspaces.Section(
            name="AUPRC by label fraction",
            panels=_result_panels(),
            is_open=True,
            pinned=True,
            layout_settings=workspaces.SectionLayoutSettings(columns=1, rows=3),
        ),
        workspaces.Section(name="Pretraining", panels=_curves("pretrain", ("loss", "collapse", "lr")), is_open=True),
        workspaces.Section(name="Fine-tuning", panels=_curves("finetune", ("train_loss", "val_loss", "val_auprc"))),
        workspaces.Section(name="Cost", panels=_cost_panels()),
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"voxbench {records.experiment}",
        sections=sections,
        runset_settings=workspaces.RunsetSettings(
            filters=And(Config("experiment") == records.experiment),
            groupby=[Config("method"), Config("fraction")],
            order=[Ordering(Config("method"), ascending=True), Ordering(Config("fraction"), ascending=True)],
            pinned_columns=[
                "summary:auprc",
                "summary:auroc",
                "config:method",
                "config:fraction",
                "summary:labels/spent",
            ],
        ),
        auto_generate_panels=False,
    )


def save(run: Path, project: str, entity: str | None) -> str:
    """Makes the workspace, or updates the one made before, and returns its address. Raises TrackingError."""
    records = Records(run)
    try:
        owner = entity or wandb.Api(timeout=CONNECT_TIMEOUT_S).default_entity
        if not owner:
            raise TrackingError("W&B does not say whose project it is: give --wandb-entity")
        workspace = build(records, project, owner)
        path, known = run / "wandb" / "dashboards.json", _known(run)
        place = digest([records.experiment, owner, project])
        if place in known:
            workspace._internal_name, workspace._internal_id = known[place]
        workspace.save()
        write_json(path, {**known, place: [workspace._internal_name, workspace._internal_id]})
        return str(workspace.url)
    except (wandb.Error, OSError, ValueError) as error:
        raise TrackingError(f"no dashboard was made: {one_line(error)}") from error


def _known(run: Path) -> dict[str, Any]:
    return read_json(run / "wandb" / "dashboards.json") or {}


def _result_panels() -> list[Any]:
    chart = panels.CustomChart(
        query={"summaryTable": {"tableKey": "label_fraction_table"}},
        chart_name=LINE_CHART,
        chart_fields={"x": "fraction", "y": "auprc", "stroke": "method"},
        chart_strings={"title": "AUPRC by label fraction"},
    )
    table = panels.WeavePanelSummaryTable(table_name="results")
    bars = panels.BarPlot(title="AUPRC", metrics=["auprc"], groupby="method", groupby_rangefunc="stddev")
    return [chart, table, bars]


def _curves(prefix: str, names: tuple[str, ...]) -> list[Any]:
    return [
        panels.LinePlot(title=f"{prefix}: {name.replace('_', ' ')}", x="Step", y=[f"{prefix}/{name}"]) for name in names
    ]


def _cost_panels() -> list[Any]:
    return [
        panels.ScatterPlot(
            title="Cost against AUPRC",
            x=panels.SummaryMetric("cost/pretrain_seconds"),
            y=panels.SummaryMetric("auprc"),
        ),
        panels.ScatterPlot(
            title="Labels spent against AUPRC",
            x=panels.SummaryMetric("labels/spent"),
            y=panels.SummaryMetric("auprc"),
        ),
        panels.BarPlot(title="Peak memory (MB)", metrics=["cost/peak_memory_mb"], groupby="method"),
    ]
