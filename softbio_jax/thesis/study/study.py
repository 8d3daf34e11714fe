"""A study: cells, each trained at several learning rates and then with several seeds."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from softbio_jax.data.augment import AugmentConfig
from softbio_jax.errors import UserError
from softbio_jax.ranges import Name, Range, Seed, from_mapping
from softbio_jax.runs.config import BatchSize, Rate, RunConfig, config_from

# The balancer's log-variances have the same rate in every trial.
_UNSCALED = ("log_var",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """How the encoder is pretrained if there are no weights: on one part of a training set.

    `fraction` of `data` (NAME/SPLIT), selected by `split_seed` and the images' ids, is used only
    for this. The targets are the classes of the audit column `column` and the first
    `components` of the gradient histogram.
    """

    variant: str
    data: str
    column: str
    fraction: Annotated[float, Range(0, 1, above=True)]
    split_seed: Seed
    components: Annotated[int, Range(0, 10_000)]
    steps: Annotated[int, Range(1, 10**9)]
    batch_size: BatchSize
    rate: Rate
    seed: Seed
    augment: AugmentConfig


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Trial:
    """One training run: a cell at a factor of its learning rates with a seed, for a share of its steps."""

    cell: str
    factor: float
    seed: int
    share: float = 1.0

    @property
    def name(self) -> str:
        """The trial's folder inside the study's `runs`."""
        part = "" if self.share == 1 else f"-share{self.share:g}"
        return f"{self.cell}/x{self.factor:g}-seed{self.seed}{part}"


Results = Mapping[Trial, Mapping[str, Any]]  # of the finished trials


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Cells and their budget.

    Every cell is trained at every factor of its learning rates with the first seed, for
    `search_share` of its steps; the factor with the lowest validation loss is then trained with the
    other seeds, and with the first one too where its search was shorter. `more_seeds` are those of
    single cells beside `seeds`. A cell of `factor_of` is not searched: it takes the factor chosen for
    another cell. `untrained` names the cells whose encoder keeps its random weights.
    `name` is that of the collected results.
    """

    data_root: str
    name: Annotated[str, Name()] = "small_reproduction"
    seeds: tuple[Seed, ...]
    factors: tuple[Annotated[float, Range(0, 1e6, above=True)], ...]
    cells: Mapping[str, Any]  # name -> a run's configuration, in the order of running
    pretrained: str = ""
    search_share: Annotated[float, Range(0, 1, above=True)] = 1.0
    more_seeds: Mapping[str, tuple[Seed, ...]] = dataclasses.field(default_factory=dict)
    factor_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    pretrain: Pretrain | None = None

    def config(self, trial: Trial, *, encoder: str, workdir: pathlib.Path) -> RunConfig:
        """Returns a trial's configuration, given the encoder's file and the study's folder."""
        config = config_from(self.cells[trial.cell])
        rates = {
            group: rate if group in _UNSCALED else rate * trial.factor
            for group, rate in config.optimizer.rates.items()
        }
        weights = "" if trial.cell in self.untrained else encoder
        steps, warmup, every = (
            max(1, round(count * trial.share)) if count else 0
            for count in (config.train.steps, config.optimizer.warmup_steps, config.train.eval_every)
        )
        return dataclasses.replace(
            config,
            seed=trial.seed,
            model=dataclasses.replace(config.model, pretrained=weights),
            data=dataclasses.replace(config.data, root=self.data_root),
            optimizer=dataclasses.replace(config.optimizer, rates=rates, warmup_steps=warmup),
            train=dataclasses.replace(
                config.train,
                steps=steps,
                eval_every=every,
                compile_cache=str(workdir / "compiled"),
                cache_dir=str(workdir / "features") if config.train.cache_features else "",
            ),
        )

    def size(self) -> int:
        """Returns the number of trials."""
        searched = len(self.factors) - (self.search_share == 1)
        finals = sum(len(self.seeds_of(cell)) for cell in self.cells)
        return finals + searched * (len(self.cells) - len(self.factor_of))

    def seeds_of(self, cell: str) -> tuple[int, ...]:
        """Returns the seeds that a cell's chosen factor is trained with."""
        return (*self.seeds, *self.more_seeds.get(cell, ()))

    def search(self, cell: str) -> list[Trial]:
        """Returns the trials among which a cell's factor is chosen; none for one of `factor_of`."""
        if cell in self.factor_of:
            return []
        seed, share = self.seeds[0], self.search_share
        return [Trial(cell=cell, factor=factor, seed=seed, share=share) for factor in self.factors]

    def trials(self) -> list[Trial]:
        """Returns every trial that the study may have, whatever factors are chosen."""
        final = [
            Trial(cell=cell, factor=factor, seed=seed)
            for cell in self.cells
            for factor in self.factors
            for seed in self.seeds_of(cell)
        ]
        return list(dict.fromkeys([*(trial for cell in self.cells for trial in self.search(cell)), *final]))

    def chosen_factor(self, cell: str, done: Results) -> float | None:
        """Returns the factor with the lowest validation loss, None while its search is unfinished.

        Test sets play no part. Of equal losses the lower factor wins.

        Raises:
          UserError: no trial of the cell has a finite loss.
        """
        trials = self.search(self.factor_of.get(cell, cell))
        if any(trial not in done for trial in trials):
            return None
        losses = {trial.factor: _loss(done[trial]) for trial in trials}
        best = min(sorted(losses), key=losses.__getitem__)
        if math.isinf(losses[best]):
            found, fix = ", ".join(f"{f:g}" for f in losses), "lower its rates, in another --workdir"
            what = "every learning rate of a cell diverged"
            raise UserError(what, where=f"cell {cell!r}", found=f"factors {found}", fix=fix)
        return best

    def chosen(self, cell: str, done: Results) -> list[Trial]:
        """Returns a cell's trials at its chosen factor, one per seed; none before it is chosen."""
        factor, seeds = self.chosen_factor(cell, done), self.seeds_of(cell)
        return [] if factor is None else [Trial(cell=cell, factor=factor, seed=seed) for seed in seeds]

    def ready(self, done: Results) -> list[Trial]:
        """Returns the unfinished trials that depend on no other, cell by cell."""
        trials = [trial for cell in self.cells for trial in (*self.search(cell), *self.chosen(cell, done))]
        return [trial for trial in dict.fromkeys(trials) if trial not in done]


def _loss(result: Mapping[str, Any]) -> float:
    loss = result["validation_loss"]
    return math.inf if loss is None or not math.isfinite(loss) else float(loss)


def study_from(values: Mapping[str, Any]) -> Study:
    """Returns the study of a nested mapping, such as a ConfigDict's.

    Raises:
      UserError: an unknown or missing key, a value of the wrong type, or a study without weights.
    """
    study: Study = from_mapping(Study, {name: v for name, v in values.items() if name != "pretrain"})
    if "pretrain" in values:
        pretrain = from_mapping(Pretrain, values["pretrain"], "config.pretrain")
        study = dataclasses.replace(study, pretrain=pretrain)
    _check(study)
    for name, cell in study.cells.items():
        try:
            config_from(cell)
        except UserError as error:
            raise UserError(f"cell {name!r}: {error}") from error
    return study


def _check(study: Study) -> None:
    for name, values in (("seeds", study.seeds), ("factors", study.factors)):
        _require(0 < len(set(values)) == len(values), f"config.{name}", "at least one, all different", values)
    _require(min(study.factors) > 0, "config.factors", "numbers above 0", study.factors)
    _require(len(study.cells) > 0, "config.cells", "at least one", ())
    named = {"untrained": study.untrained, "more_seeds": study.more_seeds, "factor_of": study.factor_of}
    for name, cells in named.items():
        unknown = [cell for cell in cells if cell not in study.cells]
        _require(not unknown, f"config.{name}", "names of config.cells", unknown)
    searched = [cell for cell in study.cells if cell not in study.factor_of]
    for cell, source in study.factor_of.items():
        _require(source in searched, f"config.factor_of.{cell}", f"one of {', '.join(searched)}", [source])
    for cell in study.more_seeds:
        seeds = study.seeds_of(cell)
        _require(len(set(seeds)) == len(seeds), f"config.more_seeds.{cell}", "seeds that differ", seeds)
    if study.pretrain is not None:
        f = study.pretrain.fraction
        _require(0 < f < 1, "config.pretrain.fraction", "a number between 0 and 1", (f,))
    if bool(study.pretrained) == (study.pretrain is not None):
        both = bool(study.pretrained)
        raise UserError(
            "the encoder's weights",
            where="config.pretrained",
            expected="a weights file, or a config.pretrain that makes one",
            found="both" if both else "neither",
            fix="clear --config.pretrained" if both else "name the file: --config.pretrained=FILE",
        )


def _require(holds: bool, where: str, expected: str, found: Sequence[Any]) -> None:
    if not holds:
        text, fix = ", ".join(map(str, found)) or "none", "correct the value"
        raise UserError("bad config value", where=where, expected=expected, found=text, fix=fix)
