"""A study as frozen dataclasses: cells, each tried at several rates, then with several seeds."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax.data.augment import AugmentConfig
from softbio_jax.errors import UserError
from softbio_jax.runs.config import RunConfig, config_from, from_mapping

# What has a rate of its own in every run: the balancer's log-variances.
_UNSCALED = ("log_var",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """How the tower is made where there are no weights: from one part of a training set.

    `fraction` of `data` (NAME/SPLIT), chosen by `split_seed` and the pictures' ids, is for this
    alone. `column` is the audit column that the tower learns to tell, `components` how many
    components of the gradient histogram it regresses.
    """

    variant: str
    data: str
    column: str
    fraction: float
    split_seed: int
    components: int
    steps: int
    batch_size: int
    rate: float
    seed: int
    augment: AugmentConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Cells and their budget.

    Every cell is tried at every factor of its learning rates with the first seed; the factor of
    the lowest validation loss then gets the other seeds. `untrained` names the cells whose tower
    keeps its random weights.
    """

    data_root: str
    seeds: tuple[int, ...]
    factors: tuple[float, ...]
    cells: Mapping[str, Any]  # name -> a run's configuration, in the order of running
    pretrained: str = ""
    untrained: tuple[str, ...] = ()
    pretrain: Pretrain | None = None

    def config(self, run: "Run", *, tower: str, workdir: pathlib.Path) -> RunConfig:
        """Returns the configuration of one run.

        Args:
          run: which.
          tower: the file of the pretrained tower.
          workdir: the study's folder, for what its runs share.
        """
        config = config_from(self.cells[run.cell])
        rates = {
            group: rate if group in _UNSCALED else rate * run.factor
            for group, rate in config.optimizer.rates.items()
        }
        cached = config.train.cache_features
        return dataclasses.replace(
            config,
            seed=run.seed,
            model=dataclasses.replace(config.model, pretrained="" if run.cell in self.untrained else tower),
            data=dataclasses.replace(config.data, root=self.data_root),
            optimizer=dataclasses.replace(config.optimizer, rates=rates),
            train=dataclasses.replace(
                config.train,
                compile_cache=str(workdir / "compiled"),
                cache_dir=str(workdir / "features") if cached else "",
            ),
        )

    def size(self) -> int:
        """Returns how many runs there are."""
        return len(self.cells) * (len(self.factors) + len(self.seeds) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Run:
    """One training: a cell at a factor of its rates with a seed."""

    cell: str
    factor: float
    seed: int

    @property
    def name(self) -> str:
        """The run's folder inside the study's `runs`."""
        return f"{self.cell}/x{self.factor:g}-seed{self.seed}"


def study_from(values: Mapping[str, Any]) -> Study:
    """Returns the study of a nested mapping, such as a ConfigDict's.

    Raises:
      UserError: an unknown or missing key, a value of the wrong type, or a study without weights.
    """
    rest = {name: value for name, value in values.items() if name != "pretrain"}
    study: Study = from_mapping(Study, rest)
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
        _require(
            len(values) > 0 and len(set(values)) == len(values),
            f"config.{name}",
            "at least one, all different",
            values,
        )
    _require(min(study.factors) > 0, "config.factors", "numbers above 0", study.factors)
    _require(len(study.cells) > 0, "config.cells", "at least one", ())
    unknown = [name for name in study.untrained if name not in study.cells]
    _require(not unknown, "config.untrained", "names of config.cells", unknown)
    if study.pretrain is not None:
        _require(
            0 < study.pretrain.fraction < 1,
            "config.pretrain.fraction",
            "a number between 0 and 1",
            (study.pretrain.fraction,),
        )
    if bool(study.pretrained) == (study.pretrain is not None):
        raise UserError(
            "the tower's weights",
            where="config.pretrained",
            expected="a weights file, or a config.pretrain that makes them",
            found="both" if study.pretrained else "neither",
            fix="clear --config.pretrained"
            if study.pretrained
            else "name the file: --config.pretrained=FILE",
        )


def _require(holds: bool, where: str, expected: str, found: Sequence[Any]) -> None:
    if not holds:
        raise UserError(
            "bad config value",
            where=where,
            expected=expected,
            found=", ".join(map(str, found)) or "none",
            fix="correct the value",
        )
