"""``bench prepare``: from a folder of head scans to sinus volumes that ``bench run`` takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from voxbench.benchmark.commands.terminal import INTERRUPTED, Terminal
from voxbench.datasets.prepare.limits import Limits


class Modality(StrEnum):
    """How intensities are to be read."""

    auto = "auto"
    mr = "mr"
    ct = "ct"


class Mirror(StrEnum):
    """Whose crops are mirrored, so that both sides look alike."""

    right = "right"
    left = "left"
    none = "none"


def prepare(
    scans: Annotated[
        Path,
        typer.Argument(help="A folder of NIfTI, a BIDS tree, a CSV of path,patient_id, or a folder of DICOM folders."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write; the same command again does only what is new or changed.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV, TSV or XLSX: patient, side (left, right, both), finding or label. Without: no labels."),
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Which sheet of an XLSX has the labels.")] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Which scans of a BIDS tree (T1w, T2w, FLAIR), or of folders a case.")
    ] = None,
    id_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose group is the patient, within a file's path; else the file's name is."
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Regular expression for the one series of each DICOM folder, by its name.")
    ] = None,
    modality: Annotated[Modality, typer.Option(help="auto: CT is known by values below -500 HU.")] = Modality.auto,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Reference head (NIfTI): MNI152, or another with --centroids. Without: MNI152 through templateflow."
        ),
    ] = None,
    centroids: Annotated[
        str | None,
        typer.Option(
            help="Mean sinus centroids in the reference, left/right, mm RAS+. MNI152 has them: -25,38,-66/25,38,-66."
        ),
    ] = None,
    samples_per_sinus: Annotated[
        int, typer.Option(help="Crops a sinus: the first at the centroid, others around it.")
    ] = 1,
    spread_mm: Annotated[float, typer.Option(help="Standard deviation of the other crops' centres, mm.")] = 2.0,
    crop_mm: Annotated[float, typer.Option(help="Edge of a crop, mm.")] = 56.0,
    size: Annotated[int, typer.Option(help="Voxels along each edge of a crop.")] = 64,
    mirror: Annotated[Mirror, typer.Option(help="Side that is mirrored, so that both look alike.")] = Mirror.right,
    min_inside: Annotated[
        float, typer.Option(help="Refuse a sinus of which less than this share lies inside the scan.")
    ] = Limits.inside,
    max_turn: Annotated[
        float, typer.Option(help="Refuse a head turned by more than these degrees against its affine.")
    ] = Limits.turn,
    pool_unlisted: Annotated[
        bool, typer.Option("--pool-unlisted", help="Scans without a row in the sheet join the unlabelled pool.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Go on without unreadable scans; they are listed in excluded.csv.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of registration and of the crops' centres.")] = 0,
    workers: Annotated[
        int, typer.Option(help="Processes, a head each; not given: one a core, as memory allows.", show_default=False)
    ] = 0,
) -> None:
    """Find both maxillary sinuses in every head scan and cut them out, ready for `bench run --dataset OUT`.

    Each head is registered to a reference, judged, and cropped; what cannot be trusted is refused and listed in
    OUT/excluded.csv. Look at OUT/index.html before you go on. Patient names stay in OUT/private.

    Example: bench prepare scans/ --labels findings.xlsx --out prepared
    """
    from voxbench.benchmark.commands import (
        prepare as command_prepare,  # brings SimpleITK, which `--help` can do without
    )
    from voxbench.datasets.prepare.command import PrepareOptions

    options = PrepareOptions(
        scans=scans, out=out, labels=labels, sheet=sheet, suffix=suffix, id_pattern=id_pattern,
        series=series, modality=modality.value, reference=reference, centroids=centroids,
        samples_per_sinus=samples_per_sinus, spread_mm=spread_mm, crop_mm=crop_mm, size=size, mirror=mirror.value,
        seed=seed, limits=Limits(inside=min_inside, turn=max_turn), pool_unlisted=pool_unlisted,
        skip_broken=skip_broken, workers=workers,
    )  # fmt: skip
    try:
        command_prepare.execute(options, Terminal())
    except KeyboardInterrupt as error:
        Terminal(stderr=True).print(
            "stopped: finished heads are kept, and the same command goes on from there", soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from error
