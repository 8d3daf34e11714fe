"""The configuration of a run: frozen dataclasses, built once from a config file and checked."""

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
from softbio_jax.tasks import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder, its input resolution and its pretrained weights."""

    variant: str
    image_size: int = 0  # pixels; 0: the variant's own
    pretrained: str = ""  # a checkpoint file; empty: random weights
    feature: Literal["pooled", "projected"] = "pooled"
    head: HeadConfig = HeadConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Prepared data sets, NAME/SPLIT under root, and the sampler of the training rows."""

    root: str
    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    val_fraction: float = 0.2  # of each training set; 0: no validation
    split_seed: int = 0
    # name and arguments of the sampler
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "natural"})
    workers: int = 0  # decoding processes; 0: threads of this process
    # test set -> tasks that its tables show and the averages exclude
    not_averaged: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # test set -> tasks whose labels are a model's output: excluded and marked as such
    synthetic_labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with one peak rate per parameter group, and one schedule and clipping norm for all."""

    rates: Mapping[str, float]  # group -> peak learning rate
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    warmup_steps: int = 0
    least_rate: float = 0.0  # lower bound of every rate on a plateau
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
    """Lengths and intervals, in optimizer steps."""

    steps: int
    batch_size: int  # examples per step, over all devices and microbatches
    microbatches: int = 1
    eval_batch_size: int = 256
    log_every: int = 20
    eval_every: int = 0  # 0: only after the last step
    checkpoint_every: int = 0  # 0: only after the last step
    keep: int = 2  # newest checkpoints kept, besides the best
    patience: int = 0  # validations without improvement before stopping; 0: never
    plateau_patience: int = 5
    plateau_factor: float = 0.1
    evaluate: Literal["last", "best"] = "last"  # the checkpoint to evaluate on the test sets
    max_skipped: int = 10  # non-finite updates in a row before the run stops
    profile_steps: tuple[int, ...] = ()  # (first, last) step to profile
    compile_cache: str = ""  # folder of compiled programs, shared by runs
    cache_features: bool = False  # heads-only methods: run the encoder once
    cache_views: int = 1  # per training image: one plain, the others augmented
    cache_dir: str = ""  # cached features; empty: WORKDIR/features


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The device mesh: all devices, in groups of `fsdp` that shard large weights."""

    fsdp: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

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
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 only on CPU


def config_from(values: Mapping[str, Any]) -> RunConfig:
    """Returns the configuration of a nested mapping, such as `ConfigDict.to_dict()`.

    Raises:
      UserError: an unknown or missing key, or a value of the wrong type.
    """
    config: RunConfig = from_mapping(RunConfig, values)
    return config


def from_mapping(cls: type, values: Mapping[str, Any], where: str = "config") -> Any:
    """Returns a dataclass built from nested mappings; every key and type is checked.

    Raises:
      UserError: an unknown or missing key, or a value of the wrong type, by its dotted name.
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
    """Checks everything that needs neither data nor weights, so that a dry run reports it too.

    Raises:
      UserError: an unknown sampler or task, or an attention kernel that this machine lacks.
    """
    if "name" not in config.data.sampler:
        raise UserError(
            "missing config key", where="config.data.sampler.name", fix="set it in the config file"
        )
    sampling.make(**config.data.sampler)
    for field, rule in (
        ("not_averaged", config.data.not_averaged),
        ("synthetic_labels", config.data.synthetic_labels),
    ):
        for name, tasks in rule.items():
            for task in set(tasks) - set(TASKS):
                raise UserError(
                    "unknown task",
                    where=f"data.{field}.{name}",
                    expected=f"a tuple of {', '.join(TASKS)}",
                    found=repr(task),
                    fix=nearest(task, TASKS, otherwise="correct the name"),
                )
    for task in sorted(set(config.balancing.weights) - set(config.tasks)):
        raise UserError(
            "weight of a task that is not trained",
            where=f"balancing.weights.{task}",
            expected=f"one of {', '.join(config.tasks)}",
            found=task,
            fix=nearest(task, config.tasks, otherwise="remove it"),
        )
    if on_this_machine(config.compute) != config.compute:
        raise UserError(
            "cuDNN attention without a GPU",
            where="compute.attention",
            expected="xla or auto",
            found=f"cudnn on a {jax.default_backend()}",
            fix="set it to auto",
        )
