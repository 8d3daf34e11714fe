"""The configuration of a run: frozen dataclasses, built once from a config file and checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax

from softbio_jax.data import sampling
from softbio_jax.data.augment import AugmentConfig
from softbio_jax.errors import UserError, nearest
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.models.attention import on_this_machine
from softbio_jax.models.config import MOST_PIXELS, ComputeConfig
from softbio_jax.models.multitask import HeadConfig, check_tasks
from softbio_jax.ranges import Distinct, Interval, Name, Ordered, Range, Seed, check_fields, from_mapping
from softbio_jax.runs.chips import Dtype, fastest_dtype
from softbio_jax.tasks import TASKS

Rate = Annotated[float, Range(0, 1000)]
BatchSize = Annotated[int, Range(1, 2**24)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder, its input resolution and its pretrained weights."""

    variant: Annotated[str, Name()]
    image_size: Annotated[int, Range(0, MOST_PIXELS)] = 0  # pixels; 0: the variant's own
    pretrained: str = ""  # a checkpoint file; empty: random weights
    feature: Literal["pooled", "projected"] = "pooled"
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        check_fields(self, "model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Prepared data sets, NAME/SPLIT under root, and the sampler of the training rows."""

    root: str
    train: tuple[Annotated[str, Name(slash=True)], ...]
    test: tuple[Annotated[str, Name(slash=True)], ...] = ()
    val_fraction: Annotated[float, Range(0, 1, below=True)] = 0.2  # of each training set; 0: no validation
    split_seed: Seed = 0
    # name and arguments of the sampler
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "natural"})
    workers: Annotated[int, Range(0, 1024)] = 0  # decoding processes; 0: threads of this process
    # test set -> tasks that its tables show and the averages exclude
    not_averaged: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # test set -> tasks whose labels are a model's output: excluded and marked as such
    synthetic_labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with one peak rate per parameter group, and one schedule and clipping norm for all."""

    rates: Mapping[str, Rate]  # group -> peak learning rate
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    warmup_steps: Interval = 0
    least_rate: Rate = 0.0  # lower bound of every rate on a plateau
    weight_decay: Annotated[float, Range(0, 1000)] = 0.01
    decay_all: bool = False  # also log-variances, norms, magnitudes, biases, probe
    clip_norm: Annotated[float, Range(0, 1e9)] = 1.0  # of the trainable tree's gradient; 0: none
    b1: Annotated[float, Range(0, 1, below=True)] = 0.9
    b2: Annotated[float, Range(0, 1, below=True)] = 0.999
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
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

    steps: Annotated[int, Range(1, 10**9)]
    batch_size: BatchSize  # examples per step, over all devices and microbatches
    microbatches: BatchSize = 1
    eval_batch_size: BatchSize = 256
    log_every: Annotated[int, Range(1, 10**9)] = 20
    eval_every: Interval = 0  # 0: only after the last step
    checkpoint_every: Interval = 0  # 0: only after the last step
    keep: Annotated[int, Range(1, 10**6)] = 2  # newest checkpoints kept, besides the best
    patience: Interval = 0  # validations without improvement before stopping; 0: never
    plateau_patience: Interval = 5
    plateau_factor: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1
    evaluate: Literal["last", "best"] = "last"  # the checkpoint to evaluate on the test sets
    max_skipped: Interval = 10  # non-finite updates in a row before the run stops
    profile_steps: tuple[Interval, ...] = ()  # (first, last) step to profile
    compile_cache: str = ""  # folder of compiled programs, shared by runs
    cache_features: bool = False  # heads-only methods: run the encoder once
    cache_views: Annotated[int, Range(1, 1024)] = 1  # per training image: one plain, the others augmented
    cache_dir: str = ""  # cached features; empty: WORKDIR/features

    def __post_init__(self) -> None:
        check_fields(self, "train")
        if self.profile_steps and not Ordered().holds(self.profile_steps):
            raise UserError(
                "bad config value",
                where="train.profile_steps",
                expected=f"no values, or {Ordered()}",
                found=repr(self.profile_steps),
                fix="for example (10, 15)",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunComputeConfig(ComputeConfig):
    """`ComputeConfig` of a run, which can leave the type to its devices.

    dtype="auto" is bfloat16 where the devices multiply it, float16 with dynamic loss scaling on older GPUs
    and float32 on a CPU, see `chips.fastest_dtype`. A resumed run keeps the type that it began with.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The device mesh: all devices, in groups of `fsdp` that shard large weights."""

    fsdp: Annotated[int, Range(1, 2**16)] = 1

    def __post_init__(self) -> None:
        check_fields(self, "mesh")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    seed: Seed
    tasks: Annotated[tuple[Annotated[str, Name()], ...], Distinct(1)]
    model: ModelConfig
    method: Mapping[str, Any]  # name and the method's own arguments
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    balancing: BalancingConfig = BalancingConfig()
    augment: AugmentConfig = AugmentConfig()
    compute: RunComputeConfig = RunComputeConfig()
    mesh: MeshConfig = MeshConfig()
    # auto: float32 on CPU, elsewhere compute.dtype of 16 bits, else bfloat16
    frozen_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        if type(self.compute) is ComputeConfig:  # of a caller who wants no "auto"
            object.__setattr__(self, "compute", RunComputeConfig(**dataclasses.asdict(self.compute)))
        check_fields(self, "config")


def config_from(values: Mapping[str, Any]) -> RunConfig:
    """Returns the configuration of a nested mapping, such as `ConfigDict.to_dict()`.

    Raises:
      UserError: an unknown or missing key, or a value of the wrong type.
    """
    config: RunConfig = from_mapping(RunConfig, values)
    return config


def resolve_dtype(config: RunConfig, devices: Sequence[Any]) -> RunConfig:
    """Returns config with the `compute.dtype` that "auto" means on the devices."""
    if config.compute.dtype != "auto":
        return config
    compute = dataclasses.replace(config.compute, dtype=fastest_dtype(devices))
    return dataclasses.replace(config, compute=compute)


def frozen_dtype(config: RunConfig, platform: str) -> Dtype:
    """Returns the type of the frozen kernels on a JAX platform, for a resolved `compute.dtype`."""
    if config.frozen_dtype != "auto":
        return config.frozen_dtype
    if platform == "cpu":
        return "float32"
    return "float16" if config.compute.dtype == "float16" else "bfloat16"


def check(config: RunConfig) -> None:
    """Checks everything that needs neither data nor weights, so that a dry run reports it too.

    Raises:
      UserError: an unknown sampler or task, or an attention kernel that this machine lacks.
    """
    check_tasks(config.tasks, where="config.tasks")
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
