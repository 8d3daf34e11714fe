"""The resolved configuration of a run, as frozen dataclasses made once from a config file."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import jax

from softbio_jax.data import sampling
from softbio_jax.data.augment import AugmentConfig
from softbio_jax.errors import UserError, nearest
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.models.attention import on_this_machine
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.multitask import HeadConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The tower, the resolution it runs at and where its weights come from."""

    variant: str
    image_size: int = 0  # pixels; 0: the variant's own
    pretrained: str = ""  # a checkpoint file; empty: random weights
    feature: Literal["pooled", "projected"] = "pooled"
    head: HeadConfig = HeadConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Prepared data sets as NAME/SPLIT under root, and how training draws from them."""

    root: str
    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    val_fraction: float = 0.2  # of each training set; 0: no validation
    split_seed: int = 0
    # name and the sampler's own arguments
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "natural"})
    workers: int = 0  # decoding processes; 0: threads of this one


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a peak rate a parameter group, one schedule and one clipping for all."""

    rates: Mapping[str, float]  # group -> peak learning rate
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    warmup_steps: int = 0
    least_rate: float = 0.0  # no group's rate is lowered below it on a plateau
    weight_decay: float = 0.01
    decay_all: bool = False  # also log-variances, norms, magnitudes, biases, probe
    clip_norm: float = 1.0  # of the trainable tree's gradient; 0: none
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        # The group's name before 0.2, in older configurations and run directories.
        if "log_sigma" not in self.rates:
            return
        if "log_var" in self.rates:
            raise UserError(
                "two learning rates for one group",
                where="optimizer.rates.log_sigma",
                expected="log_var only, its present name",
                found="both",
                fix="remove log_sigma",
            )
        rates = {"log_var" if group == "log_sigma" else group: r for group, r in self.rates.items()}
        object.__setattr__(self, "rates", rates)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Lengths and cadences, in optimizer steps."""

    steps: int
    batch_size: int  # examples a step, over all devices and microbatches
    microbatches: int = 1
    eval_batch_size: int = 256
    log_every: int = 20
    eval_every: int = 0  # 0: no validation on the way
    checkpoint_every: int = 0  # 0: only at the end
    keep: int = 2  # newest checkpoints kept, beside the best
    patience: int = 0  # validations without improvement before stopping; 0: never
    plateau_patience: int = 5
    plateau_factor: float = 0.1
    evaluate: Literal["last", "best"] = "last"  # which checkpoint the test sets see
    max_skipped: int = 10  # non-finite updates in a row before the run stops
    profile_steps: tuple[int, ...] = ()  # (first, last) step of a profiler trace
    compile_cache: str = ""  # folder where compiled programs are kept between runs
    cache_features: bool = False  # of a method that trains heads alone: the tower runs once
    cache_views: int = 1  # of each training picture: the first as it is, the others augmented
    cache_dir: str = ""  # where features are kept; empty: WORKDIR/features


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are laid out: all of them, in groups of fsdp over which large weights lie."""

    fsdp: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run is determined by."""

    seed: int
    tasks: tuple[str, ...]
    model: ModelConfig
    method: Mapping[str, Any]  # name and the method's own arguments
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    balancing: BalancingConfig = BalancingConfig()
    augment: AugmentConfig = AugmentConfig()
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 on CPU alone


def from_mapping(cls: type, values: Mapping[str, Any], where: str = "config") -> Any:
    """Returns `cls` built from nested mappings, every key checked.

    Raises:
      UserError: an unknown or missing key, or a value of another type, by its dotted name.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(
            "unknown config key",
            where=f"{where}.{unknown[0]}",
            expected=f"one of {', '.join(fields)}",
            found=unknown[0],
            fix=nearest(unknown[0], fields, otherwise="correct the name"),
        )
    built = {}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        required &= field.default_factory is dataclasses.MISSING
        if name in values:
            built[name] = _value(hints[name], values[name], f"{where}.{name}")
        elif required:
            raise UserError("missing config key", where=f"{where}.{name}", fix="set it in the config file")
    return cls(**built)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if origin is Literal:
        _require(value in arguments, where, f"one of {', '.join(map(repr, arguments))}", value)
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), where, "a tuple", value)
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        _require(isinstance(value, Mapping), where, "a mapping", value)
        return {key: _plain(item) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    exact = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    _require(exact, where, hint.__name__, value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _require(holds: bool, where: str, expected: str, found: Any) -> None:
    if not holds:
        raise UserError(
            "bad config value", where=where, expected=expected, found=repr(found), fix="correct the value"
        )


def check(config: RunConfig) -> None:
    """Checks what needs neither data nor weights, so that a dry run tells of it too.

    Raises:
      UserError: a sampler or a weighted task that does not exist, or attention that this machine
        cannot compute.
    """
    if "name" not in config.data.sampler:
        raise UserError(
            "missing config key", where="config.data.sampler.name", fix="set it in the config file"
        )
    sampling.make(**config.data.sampler)
    for task in sorted(set(config.balancing.weights) - set(config.tasks)):
        raise UserError(
            "weight of a task that the run does not have",
            where=f"balancing.weights.{task}",
            expected=f"one of {', '.join(config.tasks)}",
            found=task,
            fix=nearest(task, config.tasks, otherwise="leave it out"),
        )
    if on_this_machine(config.compute) != config.compute:
        raise UserError(
            "cuDNN's attention without a GPU",
            where="compute.attention",
            expected="xla or auto",
            found=f"cudnn on a {jax.default_backend()}",
            fix="set it to auto",
        )
