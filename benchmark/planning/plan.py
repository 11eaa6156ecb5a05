"""From a configuration to the work: stages and cells, each with the key under which its result is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from voxbench.benchmark.planning.folds import Splits, all_splits, but_zero, check_units
from voxbench.benchmark.planning.probe import check_sparse, probe
from voxbench.benchmark.planning.stages import checked_stages, made_by
from voxbench.benchmark.planning.start import Start, start_of
from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.assemble import Shape, blamed, build_encoder, build_method
from voxbench.benchmark.settings.config import OWN, Config
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.keys import RESULT_VERSION, derive_seed, digest
from voxbench.datasets.base import Dataset, Item
from voxbench.datasets.splits import PARTS, Fold, fraction_of
from voxbench.methods.base import Method, MethodError, Predictor, Role, Stage, Volumes

DIAGNOSED = 400  # labelled volumes at most by which it is asked whether a stage learnt
MIN_MEMBERS = 2  # volumes of a pretraining stage: batch statistics and pairs need more than one


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One pretraining stage to run. Positions are in the dataset's items."""

    key: str
    method: str
    index: int  # which of the method's stages
    name: str
    seed: int
    fold: int | None  # the fold whose replicate it is; None = shared by all folds
    members: tuple[int, ...]
    labels: tuple[int, ...]  # the members whose labels decided that they are members
    upstream: tuple[str, ...]  # keys of the stages before it, in order
    volumes: int  # its budget: volumes that pass forward and backward; 0 where nothing is trained
    diagnosed: tuple[int, ...] = ()  # labelled volumes of the training part by which it is asked whether it learnt
    mapped: bool = False  # whether a map of its features is made: of one run of a stage that suffices

    @property
    def title(self) -> str:
        """For a person."""
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.method} {self.name}{fold} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """One fine-tuning or fit of a predictor, on frozen features or a method's own, with its test.

    Positions are in the dataset's items.
    """

    key: str
    method: str
    fraction: float
    fold: int
    seed: int
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    stages: tuple[str, ...]  # keys, in order; () = no pretraining
    normals: tuple[int, ...]  # labelled normals that its stages used
    replicate: int | None  # the fold that the encoder's initialisation belongs to
    hopeless: str | None  # why it cannot give a result: known before any time is spent on its stages
    role: Role = "method"
    evaluation: str = "finetune"  # or "linear", "knn"; "own" of a method with a predictor of its own
    pool: tuple[int, ...] = ()  # what that fit may see beside its labelled volumes
    source: str | None = None  # of a third party's method: its code, and what it read
    start: str = ""  # what the encoder starts from, where that is not the common initialisation

    @property
    def name(self) -> str:
        """For a person."""
        by = "" if self.evaluation in ("finetune", OWN) else f" {self.evaluation}"
        return f"{self.method}{by} {self.fraction:.0%} fold {self.fold} seed {self.seed}"

    @property
    def trained(self) -> bool:
        """Whether a network is; else something is fitted on numbers of each volume."""
        return self.evaluation == "finetune"


@dataclass(kw_only=True)
class Plan:
    """All the work of a run, stages before those that build on them."""

    stages: dict[str, StagePlan] = field(default_factory=dict)
    cells: dict[str, CellPlan] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # methods that do not apply, and why
    notes: list[str] = field(default_factory=list)  # what a user should know before it starts


def make_plan(
    config: Config,
    dataset: Dataset,
    items: Sequence[Item],
    fingerprint: str,
    sample: Volumes,
    splits: Splits | None = None,
) -> Plan:
    """`items`, `fingerprint` and a `sample` of volumes as the bank has them; `splits` in place of the run's own.

    Raises DatasetError or BenchError where they do not fit.
    """
    check_units(items)
    planner = _Planner(config, dataset, items, fingerprint, sample, splits or all_splits(config, dataset, items))
    for row in config.rows:
        planner.add(row)
    if not planner.plan.cells:
        raise BenchError("; ".join(planner.plan.skipped.values()))
    planner.note()
    return planner.plan


def _cohort(
    stage: Stage, unlabelled: tuple[int, ...], normals: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The stage's volumes, and those of them that it has by their labels."""
    if stage.cohort == "all":
        return unlabelled, ()
    if stage.cohort == "normal":
        return normals, normals
    return tuple(sorted({*unlabelled, *normals})), tuple(sorted({*normals} - {*unlabelled}))


class _Planner:
    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        items: Sequence[Item],
        fingerprint: str,
        sample: Volumes,
        splits: Splits,
    ) -> None:
        self.config = config
        self.sample = sample
        self.dataset = dataset
        self.items = items
        self.shape: Shape = dataset.shape
        self.fingerprint = fingerprint
        self.folds = splits.folds
        # Unlabelled rows of an official validation or test part belong to that part.
        pool = (i for i, item in enumerate(items) if item.label is None and item.split in (None, "train"))
        self.pool = tuple(i for i in pool if i not in splits.closed)
        self.plan = Plan()
        self.encoders = {
            config.encoder_of(row).name: build_encoder(config, self.shape, 0, None, row) for row in config.rows
        }
        self.plan.notes += [note for encoder in self.encoders.values() for note in probe(encoder, self.shape)]
        self.starts: dict[str, Start] = {}
        self.own: dict[str, list[Any]] = {}  # what decides a method beside its name

    def add(self, method: str) -> None:
        """Plans all cells of one method, and the stages behind them."""
        try:
            with blamed("method", self.config.method_spec(method)):
                built = build_method(self.config, method, self.shape, 0, None)
                stages = checked_stages(method, built)
                if isinstance(built, Predictor):
                    built.suits(self.sample)
                self.starts[method] = start_of(self.config, method, self.shape, built)
                self.own[method] = self._identity(method, built)
            if built.sparse:
                check_sparse(self.encoders[self.config.encoder_of(method).name], self.shape)
        except (MethodError, BenchError) as error:
            self.plan.skipped[method] = f"{error}: left out"
            return
        if built.encoder_free and "@" in method:
            return  # its row is the same under each encoder
        if self.dataset.normal is None and any(stage.cohort != "all" for stage in stages):
            self.plan.skipped[method] = (
                f"{method} learns from normal volumes, and {self.config.dataset.name} has no class that means normal: "
                "left out"
            )
            return
        for seed, folds in self.folds.items():
            for number, fold in folds.items():
                for fraction in self.config.protocol.fractions:
                    self._add_cell(method, built, stages, seed, number, fold, fraction)

    def note(self) -> None:
        """Tells what of the plan is not as a user may think."""
        cells = self.plan.cells.values()
        folds = [fold for folds in self.folds.values() for fold in folds.values()]
        few = sum(self._pool_is_small(fold) for fold in folds)
        if few and any(cell.stages or cell.pool for cell in cells):
            self.plan.notes.append(
                f"the unlabelled pool ({len(self.pool)} volumes) is smaller than the training part: pretraining also "
                "sees the training part's volumes, without their labels"
            )
        if self.dataset.has_official_split:
            outside = sum(item.label is not None and item.split not in PARTS for item in self.items)
            if outside:
                self.plan.notes.append(f"{outside} labelled volumes are in no part of the official split: not used")
        chosen_on = [f.val for f in folds if f.val]
        absent = {name for val in chosen_on for i, name in enumerate(self.dataset.classes) if not self._has(val, i)}
        if absent:
            which = ", ".join(sorted(absent))
            self.plan.notes.append(
                f"not every fold's validation has a volume of class {which}: models are selected without it there"
            )
        reasons = dict.fromkeys(cell.hopeless for cell in cells if cell.hopeless)
        self.plan.notes += [f"not trained: {reason}" for reason in reasons]

    def _has(self, members: Sequence[int], label: int) -> bool:
        return any(self.items[i].label == label for i in members)

    def _add_cell(
        self, method: str, built: Method, stages: Sequence[Stage], seed: int, number: int, fold: Fold, share: float
    ) -> None:
        protocol = self.config.protocol
        # An official split has no fold to vary the draw: there seed 0 too stands in the seed of the draw.
        drawn_by = (number, seed) if self.dataset.has_official_split else (number, *but_zero(seed))
        draw = derive_seed("fraction", *drawn_by) % 2**31
        train = tuple(fraction_of(self.items, fold.train, share, draw))
        val = fold.val
        if protocol.name == "strict":
            val = tuple(fraction_of(self.items, fold.val, share, draw, least=protocol.min_val_per_class))
        normals = self._normals(train if protocol.name == "strict" else fold.train)
        replicate = number if protocol.pretrain_per_fold else None
        unlabelled = self._unlabelled(fold)
        keys: list[str] = []
        for index, stage in enumerate(stages):
            members, labels = _cohort(stage, unlabelled, normals)
            planned = self._stage(method, index, stage, seed, replicate, members, labels, tuple(keys))
            if stage.budget == "pretrain" and planned.key not in self.plan.stages:
                mapped = seed == self.config.protocol.seeds[0] and number == 0
                planned = replace(planned, diagnosed=self._diagnosed(fold, draw), mapped=mapped)
            self.plan.stages.setdefault(planned.key, planned)
            keys.append(planned.key)
        pool = unlabelled if isinstance(built, Predictor) and built.learns_from_pool else ()
        for evaluation in (OWN,) if isinstance(built, Predictor) else protocol.evaluate:
            key = digest(
                {
                    "version": RESULT_VERSION,
                    "data": self.fingerprint,
                    "encoder": self.config.encoder_of(method).identity("encoders"),
                    "members": [train, val, fold.test],
                    "cell": [self.config.method_of(method), protocol.name, share, number, seed, replicate],
                    "stages": keys,
                    **self._judged(evaluation, method, keys, pool),
                }
            )
            self.plan.cells[key] = CellPlan(
                key=key,
                method=method,
                fraction=share,
                fold=number,
                seed=seed,
                train=train,
                val=val,
                test=fold.test,
                stages=tuple(keys),
                normals=tuple(sorted({i for key in keys for i in self.plan.stages[key].labels})),
                replicate=replicate,
                hopeless=self._missing_class(share, number, train) or self._too_few(share, number, keys),
                role=built.role,
                evaluation=evaluation,
                pool=pool,
                source=self._source(method),
                start=self.starts[method].said,
            )

    def _identity(self, method: str, built: Method) -> list[Any]:
        """Its file or package, its options, and what it read: weights and whatever it has a digest of."""
        source = registry.source_digest("methods", self.config.method_spec(method))
        read = [part for part in (self.starts[method].digest, built.digest()) if part]
        return [source, self.config.options_of(method), *read]

    def _source(self, method: str) -> str | None:
        """Of a cell's record: a cell of another source is not shown beside those of this one."""
        source, _, *read = self.own[method]
        return " ".join([source or "", *read]).strip() or None

    def _judged(self, evaluation: str, method: str, stages: Sequence[str], pool: tuple[int, ...]) -> dict[str, Any]:
        """What decides an evaluation, in its cell's key. A method's own part is in the keys of its stages; without any,
        it may have set the encoder's weights as it was made."""
        if evaluation == OWN:
            return {"predictor": self.own[method], "pool": pool}
        own = [] if stages else [part for part in self.own[method] if part]
        of_method = {"method": own} if own else {}
        if evaluation != "finetune":
            return {"evaluation": evaluation, **of_method}
        return {
            "finetune": self.config.finetune_recipe(method).model_dump(mode="json"),
            "augmentation": self.config.augmentation.get("finetune", {}),
            **of_method,
        }

    def _stage(
        self,
        method: str,
        index: int,
        stage: Stage,
        seed: int,
        fold: int | None,
        members: tuple[int, ...],
        labels: tuple[int, ...],
        upstream: tuple[str, ...],
    ) -> StagePlan:
        config = self.config
        recipe = config.stage_recipe(method, stage.budget)
        key = digest(
            {
                "version": RESULT_VERSION,
                "data": self.fingerprint,
                "encoder": config.encoder_of(method).identity("encoders"),
                "method": [config.method_of(method), *self.own[method]],
                **made_by(stage, index, config, method),
                "members": members,
                "seed": [seed, fold],
                "upstream": upstream,
            }
        )
        return StagePlan(
            key=key,
            method=method,
            index=index,
            name=stage.name,
            seed=seed,
            fold=fold,
            members=members,
            labels=labels,
            upstream=upstream,
            volumes=recipe.volumes if stage.loss is not None else 0,
        )

    def _diagnosed(self, fold: Fold, draw: int) -> tuple[int, ...]:
        """Of the fold's training part, whatever the fraction; of the first fold where a stage is of all folds."""
        share = min(1.0, DIAGNOSED / max(1, len(fold.train)))
        return tuple(fraction_of(self.items, fold.train, share, draw))

    def _unlabelled(self, fold: Fold) -> tuple[int, ...]:
        """The pool less the volumes of people who are tested (one side may be labelled).

        Where there is none, the training part; where it is smaller than the training part, both.
        """
        if self._pool_is_small(fold):
            return tuple(sorted({*self._pool_of(fold), *fold.train}))
        return self._pool_of(fold) or fold.train

    def _pool_of(self, fold: Fold) -> tuple[int, ...]:
        tested = {self.items[i].patient for i in fold.test}
        return tuple(i for i in self.pool if self.items[i].patient not in tested)

    def _pool_is_small(self, fold: Fold) -> bool:
        return 0 < len(self._pool_of(fold)) < len(fold.train)

    def _missing_class(self, share: float, number: int, train: Sequence[int]) -> str | None:
        present = {self.items[i].label for i in train}
        missing = [name for label, name in enumerate(self.dataset.classes) if label not in present]
        if not missing:
            return None
        return (
            f"fraction {share:g} of fold {number} has {len(train)} labelled volumes, none of class {missing[0]!r}: "
            "use a larger fraction"
        )

    def _too_few(self, share: float, number: int, stages: Sequence[str]) -> str | None:
        for stage in (self.plan.stages[key] for key in stages):
            if len(stage.members) < MIN_MEMBERS:
                return (
                    f"fraction {share:g} of fold {number} leaves stage {stage.name!r} of {stage.method} "
                    f"{len(stage.members)} volumes to learn from, and it needs {MIN_MEMBERS}: use a larger fraction or "
                    "add volumes"
                )
        return None

    def _normals(self, members: Sequence[int]) -> tuple[int, ...]:
        return tuple(i for i in members if self.items[i].label == self.dataset.normal)
