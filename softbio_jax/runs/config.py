"""The configuration of a run: frozen dataclasses, built once from a config file and checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax

from softbio_jax.data import sampling
from softbio_jax.data.augment import AugmentConfig
from softbio_jax.data.partial.config import LabelConfig
from softbio_jax.errors import UserError, nearest
from softbio_jax.losses.balancing import BalancingConfig, Momentum
from softbio_jax.losses.distillation import DistillConfig
from softbio_jax.models.attention.choice import missing_platform
from softbio_jax.models.config import MOST_PIXELS, ComputeConfig, Pooling
from softbio_jax.models.multitask import HeadConfig, check_tasks
from softbio_jax.ranges import Distinct, Interval, Name, Ordered, Range, Seed, check_fields, from_mapping
from softbio_jax.runs.chips import Dtype, fastest_dtype
from softbio_jax.runs.parallel import MeshConfig
from softbio_jax.tasks import TASKS

Rate = Annotated[float, Range(0, 1000)]
BatchSize = Annotated[int, Range(1, 2**24)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder, its input resolution and its pretrained weights."""

    # name of the encoder, such as PE-Core-L14-336; auto: by the configuration beside the pretrained weights
    variant: Annotated[str, Name(slash=True)]
    image_size: Annotated[int, Range(0, MOST_PIXELS)] = 0  # pixels; 0: the variant's own
    pretrained: str = ""  # a checkpoint file or hub id; empty: random weights
    blocks: Annotated[int, Range(0, 1024)] = 0  # first blocks of the variant that are kept; 0: all
    pooling: Pooling | Literal[""] = ""  # of the final tokens; empty: the variant's own
    feature: Literal["pooled", "projected"] = "pooled"  # what the heads read
    flip_average: bool = False  # predict the mean logits of an image and its mirror image, at twice the cost
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        check_fields(self, "model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Prepared data sets, NAME/SPLIT under root, and the sampler of the training rows."""

    root: str  # folder of the prepared sets
    train: tuple[Annotated[str, Name(slash=True)], ...]  # NAME/SPLIT of every training set
    test: tuple[Annotated[str, Name(slash=True)], ...] = ()  # NAME/SPLIT of every test set
    val_fraction: Annotated[float, Range(0, 1, below=True)] = 0.2  # of each training set; 0: no validation
    split_seed: Seed = 0  # of the division into training and validation
    # name and arguments of the sampler of training rows
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "natural"})
    workers: Annotated[int, Range(0, 1024)] = 0  # decoding processes; 0: threads of this process
    # test set -> tasks that its tables show and the averages exclude
    not_averaged: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # test set -> tasks whose labels are a model's output: excluded and marked as such
    synthetic_labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: LabelConfig = LabelConfig()

    def __post_init__(self) -> None:
        check_fields(self, "data")


_STRENGTHS = tuple(float(f"{10 ** (k / 3):.4g}") for k in range(-3, 16))  # 0.1 to 1e5, three per decade
# What each optimizer reads besides the fields that all do, and its own defaults.
_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
_READ: dict[str, dict[str, Any]] = {
    "adamw": _ADAM,
    "adam": _ADAM,
    "lamb": {"b1": 0.9, "b2": 0.999, "eps": 1e-6},
    "lion": {"b1": 0.9, "b2": 0.99},
    "sgd": {"momentum": 0.9},
    "adafactor": {"eps": 1e-30},
    "lbfgs": {"l2": _STRENGTHS, "iterations": 1000},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer with one peak rate per parameter group, and one schedule and clipping norm for all.

    Fields that only some optimizers or schedules read are None for their default: b1=0.9 and b2=0.999 (lion
    0.99), eps=1e-8 (lamb 1e-6, adafactor 1e-30, of squares), momentum=0.9 of sgd, power=2 of polynomial.
    Setting one that the chosen optimizer or schedule does not read is an error.

    lbfgs solves linear heads of cached features exactly, as regularised logistic regressions, in a run of
    one step; see `train.probing.logistic`. It reads l2, iterations and refit only.
    """

    # optax's of that name
    name: Literal["adamw", "adam", "sgd", "lion", "lamb", "adafactor", "lbfgs"] = "adamw"
    rates: Mapping[str, Rate]  # group -> peak learning rate
    # of every rate, after the warm-up
    schedule: Literal["cosine", "linear", "polynomial", "inverse_sqrt", "constant", "plateau"] = "cosine"
    # of the polynomial schedule
    power: Annotated[float, Range(0, 100, above=True)] | None = None
    warmup_steps: Interval = 0  # of a linear warm-up from 0
    least_rate: Rate = 0.0  # lower bound of every rate on a plateau
    # decoupled, of kernels and adapters; adam has none
    weight_decay: Annotated[float, Range(0, 1000)] = 0.01
    decay_all: bool = False  # also log-variances, norms, magnitudes, biases, probe
    clip_norm: Annotated[float, Range(0, 1e9)] = 1.0  # of the trainable tree's gradient; 0: none
    momentum: Momentum | None = None  # of sgd, per step
    b1: Momentum | None = None  # decay of the first moment, per step; None: the optimizer's own
    b2: Momentum | None = None  # decay of the second moment, per step; None: the optimizer's own
    # added to the root of the second moment; None: the optimizer's own
    eps: Annotated[float, Range(0, 1, above=True)] | None = None
    ema_decay: Momentum = 0.0  # evaluate a moving average of the trained leaves; 0: the leaves themselves
    # of lbfgs: strengths of the penalty (scikit-learn's 1 / C), of which validation chooses one per task;
    # None: 0.1 to 1e5, three per decade
    l2: Annotated[tuple[Annotated[float, Range(0, 1e12, above=True)], ...], Distinct(1)] | None = None
    iterations: Annotated[int, Range(1, 10**6)] | None = None  # of lbfgs: at most, per strength; None: 1000
    refit: bool = False  # of lbfgs: solve once more on training and validation rows, at the chosen strength

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        for field in ("momentum", "b1", "b2", "eps", "l2", "iterations"):
            self._resolve(field, _READ[self.name], unset=(None, _ADAM.get(field)), of=self.name)
        if self.name == "lbfgs":
            self._check_lbfgs()
        elif self.refit:
            raise _not_read("refit", True, of=self.name)
        polynomial = {"power": 2.0} if self.schedule == "polynomial" else {}
        self._resolve("power", polynomial, unset=(None,), of=f"the schedule {self.schedule}")
        if self.name == "adam" and self.weight_decay not in (0.0, type(self).weight_decay):
            raise _not_read("weight_decay", self.weight_decay, of="adam, which has no decay")
        if self.schedule == "inverse_sqrt" and not self.warmup_steps:
            raise UserError(
                "bad config value",
                where="optimizer.warmup_steps",
                expected="at least 1 for inverse_sqrt, whose decay has this length",
                found="0",
                fix="set it, for example to a tenth of train.steps",
            )
        self._rename()

    def _check_lbfgs(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in ("name", "rates", "refit", *_READ[self.name]):
                continue
            if (value := getattr(self, field.name)) not in (None, field.default):
                raise _not_read(field.name, value, of=self.name)
        if self.rates:
            raise _not_read("rates", dict(self.rates), of=self.name)

    def _resolve(
        self, field: str, read: Mapping[str, Any], *, unset: tuple[float | None, ...], of: str
    ) -> None:
        """Gives a field its default, so that config.json holds what was used."""
        value = getattr(self, field)
        if field not in read and value not in unset:
            raise _not_read(field, value, of=of)
        if field not in read or value is None:
            object.__setattr__(self, field, read.get(field))

    def _rename(self) -> None:
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


def _not_read(field: str, value: Any, *, of: str) -> UserError:
    return UserError(
        "a field that nothing reads",
        where=f"optimizer.{field}",
        expected=f"no value with {of}",
        found=f"{value:g}" if isinstance(value, float) else str(value),
        fix="remove it",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Lengths and intervals, in optimizer steps."""

    steps: Annotated[int, Range(1, 10**9)]  # optimizer steps of the run
    batch_size: BatchSize  # examples per step, over all devices and microbatches
    microbatches: BatchSize = 1  # parts of a batch that are computed one after the other, to save memory
    eval_batch_size: BatchSize = 256  # examples per batch of validation and test
    log_every: Annotated[int, Range(1, 10**9)] = 20  # steps between two lines of metrics
    eval_every: Interval = 0  # steps between validations; 0: only after the last step
    checkpoint_every: Interval = 0  # steps between checkpoints; 0: only after the last step
    keep: Annotated[int, Range(1, 10**6)] = 2  # newest checkpoints kept, besides the best
    patience: Interval = 0  # validations without improvement before stopping; 0: never
    plateau_patience: Interval = 5  # validations without improvement before rates are lowered
    plateau_factor: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1  # which multiplies them
    evaluate: Literal["last", "best"] = "last"  # the checkpoint to evaluate on the test sets
    max_skipped: Interval = 10  # non-finite updates in a row before the run stops
    profile_steps: tuple[Interval, ...] = ()  # (first, last) step to profile
    # further places that get the metrics, each with its package: wandb, mlflow
    trackers: Annotated[tuple[Literal["wandb", "mlflow"], ...], Distinct()] = ()
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

    # type of activations; norms, softmax and losses stay float32; auto: the fastest of the devices
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    seed: Seed  # of weights, order, augmentation and dropout
    # names of the tasks to learn
    tasks: Annotated[tuple[Annotated[str, Name()], ...], Distinct(1)]
    model: ModelConfig
    method: Mapping[str, Any]  # name and arguments of the method
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    balancing: BalancingConfig = BalancingConfig()
    augment: AugmentConfig = AugmentConfig()
    distill: DistillConfig = DistillConfig()
    compute: RunComputeConfig = RunComputeConfig()
    mesh: MeshConfig = MeshConfig()
    # type of frozen kernels; auto: float32 on CPU, elsewhere compute.dtype of 16 bits, else bfloat16
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


def resolve_types(config: RunConfig, devices: Sequence[Any]) -> RunConfig:
    """Returns config with both types, compute.dtype and frozen_dtype, that "auto" means on the devices."""
    config = resolve_dtype(config, devices)
    return dataclasses.replace(config, frozen_dtype=frozen_dtype(config, devices[0].platform))


def check(config: RunConfig, devices: Sequence[Any] | None = None) -> None:
    """Checks everything that needs neither data nor weights, so that a dry run reports it too.

    Args:
      config: the run.
      devices: that are compiled for; None: all of JAX's.

    Raises:
      UserError: an unknown sampler or task, or an attention kernel that the devices lack.
    """
    check_tasks(config.tasks, where="config.tasks")
    if "name" not in config.data.sampler:
        raise UserError(
            "missing config key", where="config.data.sampler.name", fix="set it in the config file"
        )
    sampling.make(**config.data.sampler)
    for field in ("not_averaged", "synthetic_labels"):
        for name, tasks in getattr(config.data, field).items():
            for task in set(tasks) - set(TASKS):
                raise UserError(
                    "unknown task",
                    where=f"data.{field}.{name}",
                    expected=f"a tuple of {', '.join(TASKS)}",
                    found=repr(task),
                    fix=nearest(task, TASKS, otherwise="correct the name"),
                )
    if (labels := config.data.labels).partial or labels.noise:
        from softbio_jax.data.partial.targets import check_names

        sets = [entry.rpartition("/")[0] for entry in config.data.train]
        check_names(labels.partial, labels.noise, sets=sets, tasks=config.tasks)
    for task in sorted(set(config.balancing.weights) - set(config.tasks)):
        raise UserError(
            "weight of a task that is not trained",
            where=f"balancing.weights.{task}",
            expected=f"one of {', '.join(config.tasks)}",
            found=task,
            fix=nearest(task, config.tasks, otherwise="remove it"),
        )
    if config.distill.teacher and config.train.cache_features:
        raise UserError(
            "cached features with a teacher",
            where="train.cache_features",
            expected="off",
            found="on",
            fix="set distill.targets=cached, which runs the teacher once per image and view",
        )
    devices = devices or jax.devices()
    if needed := missing_platform(config.compute, devices):
        raise UserError(
            f"{config.compute.attention} attention without a {needed.upper()}",
            where="compute.attention",
            expected="xla or auto",
            found=f"{config.compute.attention} on a {devices[0].platform}",
            fix="set it to auto",
        )
