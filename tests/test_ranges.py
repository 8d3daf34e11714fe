"""Every number of a configuration or a saved model has a range, and is refused outside of it."""

import ast
import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping
from typing import Annotated

import pytest

from configs import finetune
from softbio_jax import ranges
from softbio_jax.adapters.config import AdapterRules, LoRAConfig, TaskRules
from softbio_jax.adapters.methods import METHODS, method
from softbio_jax.data import sampling
from softbio_jax.errors import UserError
from softbio_jax.losses.balancing import BALANCERS, BalancingConfig
from softbio_jax.models.config import VISION, TextConfig, VisionConfig
from softbio_jax.ranges import Range, checked, from_mapping
from softbio_jax.runs import build
from softbio_jax.runs.config import RunConfig, config_from
from softbio_jax.tasks import TaskSpec
from softbio_jax.thesis.study.study import Study

CLASSES = (RunConfig, VisionConfig, TextConfig, LoRAConfig, TaskRules, AdapterRules, Study)
NAN, INF = math.nan, math.inf


def numbers_without_a_range(hint, where):
    """Yields the places of a type hint that hold an int or a float of any size."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if not any(isinstance(rule, Range) for rule in arguments[1:]):
            yield from numbers_without_a_range(arguments[0], where)
    elif dataclasses.is_dataclass(hint):
        for name, inner in ranges.hints(hint).items():
            yield from numbers_without_a_range(inner, f"{where}.{name}")
    elif hint in (int, float, complex):
        yield where
    elif origin is not typing.Literal:
        for inner in arguments:
            yield from numbers_without_a_range(inner, where)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_of_a_configuration_has_a_range(cls):
    assert list(numbers_without_a_range(cls, cls.__name__)) == []


@pytest.mark.parametrize("registry", [BALANCERS, METHODS, sampling.SAMPLERS])
def test_every_number_of_what_is_chosen_by_name_has_a_range(registry):
    elsewhere = ("return", "seed", "datasets", "config")  # checked where they come from
    for name in registry:
        hints = {key: hint for key, hint in ranges.hints(registry[name]).items() if key not in elsewhere}
        found = [place for key, hint in hints.items() for place in numbers_without_a_range(hint, key)]
        assert found == [], name


def test_a_number_without_a_range_is_found():
    @dataclasses.dataclass
    class Careless:
        rates: Mapping[str, float]
        sizes: tuple[int, ...] | None

    found = list(numbers_without_a_range(Careless, "x"))
    assert found == ["x.rates", "x.sizes"]


@functools.cache
def valid():
    return finetune.get_config("method=lora,train=a/train,tasks=age+gender").to_dict()


def with_value(path, value):
    *folders, last = path.split(".")
    copy = _copy(valid())
    inner = copy
    for folder in folders:
        inner = inner.setdefault(folder, {})
    inner[last] = value
    return copy


def _copy(values):
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in values.items()}


BAD = [
    *(("seed", v) for v in (-1, 2**32, True, 1.5, "0", NAN)),
    *(("tasks", v) for v in ((), ("age", "age"), ("age", ""), "age", ("age", 3))),
    *(("data.val_fraction", v) for v in (-0.1, 1.0, NAN, True)),
    *(("data.workers", v) for v in (-1, 10**6)),
    *(("data.train", v) for v in (("",), "a/train", (1,))),
    *(("model.variant", v) for v in ("", " ")),
    *(("model.image_size", v) for v in (-8, 10**9)),
    *(("model.head.dropout", v) for v in (1.0, -0.1, NAN)),
    *(("method.lora.rank", v) for v in (0, -1, 10**9, True, 2.0)),
    *(("method.lora.alpha", v) for v in (NAN, INF, -1.0, 10**400)),
    *(("method.targets", v) for v in (("(",), ("",), "encoder/.*", ("(a+)+b",))),
    *(("compute.dtype", v) for v in ("float8", "float8_e4m3fn", "int8", "float64", 32)),
    *(("compute.unroll", v) for v in (0, 10**9)),
    *(("compute.matmul_precision", v) for v in ("exact", "")),
    *(("optimizer.rates.heads", v) for v in (NAN, INF, -1e-3, True, "1e-3")),
    *(("optimizer.b1", v) for v in (1.0, -0.1, NAN)),
    *(("optimizer.b2", v) for v in (1.0, 1.5)),
    *(("optimizer.eps", v) for v in (0.0, -1e-8, NAN)),
    *(("optimizer.clip_norm", v) for v in (-1.0, INF)),
    *(("optimizer.weight_decay", v) for v in (-0.1, NAN)),
    *(("optimizer.warmup_steps", v) for v in (-1, 10**10)),
    *(("train.steps", v) for v in (0, -1, True, 1e3)),
    *(("train.batch_size", v) for v in (0, 10**9)),
    *(("train.microbatches", v) for v in (0, -1)),
    *(("train.log_every", v) for v in (0,)),
    *(("train.keep", v) for v in (0, -1)),
    *(("train.plateau_factor", v) for v in (0.0, 1.0, NAN)),
    *(("train.profile_steps", v) for v in ((1,), (5, 2), (1, 2, 3), (-1, 2))),
    *(("balancing.momentum", v) for v in (1.0, -0.1, NAN)),
    *(("balancing.clamp", v) for v in ((1.0, -1.0), (NAN, 1.0), (0.0,), (0.0, 500.0))),
    *(("balancing.weights.age", v) for v in (-1.0, NAN)),
    *(("augment.flip", v) for v in (1.5, NAN, True)),
    *(("augment.scale", v) for v in ((0.0, 1.0), (2.0, 1.0), (1.0, NAN), (1.0,))),
    *(("augment.degrees", v) for v in (-1.0, 181.0)),
    *(("mesh.fsdp", v) for v in (0, -1)),
    *(("data.sampler", {"name": "balanced", "epoch_size": v}) for v in (0, -1, True, NAN)),
    *(("data.sampler", {"name": "mixture", "shares": {"a": v}}) for v in (-1.0, NAN, INF)),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=[f"{path}={value!r}"[:60] for path, value in BAD])
def test_a_value_out_of_range_is_one_line_with_its_path(path, value):
    with pytest.raises(UserError) as caught:
        build.build(with_value(path, value))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert path in message


def test_the_configuration_that_they_differ_from_is_valid():
    build.build(valid())


@pytest.mark.parametrize("spelling", ["image_size", "patch_size", "heads", "width", "layers", "pool_heads"])
def test_an_encoder_of_impossible_sizes_is_refused(spelling):
    values = dataclasses.asdict(VISION["tiny-test"])
    for bad in (0, -1, 10**12, 3.5, True, values[spelling] * 2 + 1):
        if (spelling, bad) == ("layers", values[spelling] * 2 + 1):
            continue
        with pytest.raises(UserError, match=spelling.split("_")[0]):
            from_mapping(VisionConfig, values | {spelling: bad}, "tower")


def test_a_fine_tuning_of_more_blocks_than_there_are_is_refused():
    config = with_value("method", {"name": "ft", "blocks": 100})
    with pytest.raises(UserError, match=r"at most 6, found 100.*method\.blocks"):
        build.build(config)


def test_python_callers_get_the_same_checks():
    for make in (
        lambda: LoRAConfig(rank=0, alpha=1.0),
        lambda: method("mtlora", config=LoRAConfig(rank=1, alpha=1.0), task_dropout=1.0),
        lambda: BalancingConfig(momentum=NAN),
        lambda: TaskSpec(name="age", classes=("a", "a")),
        lambda: TaskSpec(name="", classes=("a", "b")),
        lambda: dataclasses.replace(config_from(valid()).train, steps=0),
    ):
        with pytest.raises(UserError):
            make()


def test_ranges_are_described_as_they_are_checked():
    open_range = Range(0, 1, above=True, below=True)
    assert not open_range.holds(0) and not open_range.holds(1) and open_range.holds(0.5)
    closed = Range(0, 1)
    assert closed.holds(0) and closed.holds(1) and not closed.holds(NAN) and not closed.holds(-INF)
    assert str(open_range) == "above 0 and below 1"
    assert str(closed) == "from 0 to 1"


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("wandb", "('wandb',)"),
        ("age,gender", "('age', 'gender')"),
        ("age+gender", "('age', 'gender')"),
        (7, "(7,)"),
    ],
)
def test_a_word_in_place_of_a_tuple_is_answered_with_the_tuple(word, fix):
    with pytest.raises(UserError, match=rf'expected a tuple, .*; fix: write "{re.escape(fix)}"$'):
        checked(tuple[str, ...], word, "config.x")
    assert isinstance(ast.literal_eval(fix), tuple)
