"""The step that the planner compiled is the one that trains, as in the cells of colab/finetune.ipynb."""

import jax
import pytest

from softbio_jax.planning import fitting
from softbio_jax.runs import build, parallel
from softbio_jax.runs.config import config_from, resolve_types
from softbio_jax.runs.data import open_all
from softbio_jax.runs.session import CompiledStep
from softbio_jax.train import loop
from tests.compiling import train_steps
from tests.runs.tiny import changed, config_on


@pytest.fixture
def compiled():
    return train_steps()


def config_of(data_root, **values):
    """As in the notebook: types are for the devices to decide."""
    return config_from(changed(config_on(data_root), train__steps=3, compute={"dtype": "auto"}, **values))


def trained(config, folder, step):
    return loop.train_and_evaluate(build.build(config), open_all(config.data), folder, compiled=step)


@pytest.mark.long
def test_the_planned_step_trains_and_gives_the_same_run(data_root, compiled, tmp_path):
    config, found = fitting(config_of(data_root), jax.devices())
    assert len(compiled) == 1
    metrics = trained(config, tmp_path / "planned", found.step)
    assert len(compiled) == 1
    assert metrics["datasets"] == trained(config, tmp_path / "own", None)["datasets"]
    assert len(compiled) == 2


@pytest.fixture
def planned(data_root):
    config = resolve_types(config_of(data_root), jax.devices())
    return CompiledStep(config=config, devices=tuple(jax.devices()), jaxpr=None, call=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer__weight_decay", 0.5),
        ("augment", {"flip": 0.0}),
        ("seed", 7),
        ("train__microbatches", 2),
        ("frozen_dtype", "bfloat16"),
    ],
)
def test_a_changed_run_does_not_get_it(planned, data_root, field, value):
    mesh = parallel.make_mesh(fsdp=1)
    assert planned.serves(build.build(config_of(data_root)), mesh)
    assert not planned.serves(build.build(config_of(data_root, **{field: value})), mesh)


def test_other_devices_do_not_get_it(planned, data_root):
    mesh = parallel.make_mesh(fsdp=1, devices=jax.devices()[:4])
    assert not planned.serves(build.build(config_of(data_root)), mesh)
