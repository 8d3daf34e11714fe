"""JAX's own switches, which a user may set for the whole process: everything still traces."""

import contextlib
import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.adapters import methods
from softbio_jax.data import augment
from softbio_jax.losses import balancing
from softbio_jax.models.config import TEXT, vision_config
from softbio_jax.models.forward import classify_in_training, encode, forward
from softbio_jax.models.multitask import HeadConfig
from softbio_jax.models.text import CLIP
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.runs.step import task_losses
from tests.adapters import towers
from tests.structure import ROOT

DROPPED = dataclasses.replace(towers.DORA, dropout=0.1)
METHODS = {name: towers.METHODS[name] for name in ("full", "lora", "dora", "mtlora_task")}
METHODS |= {"dora_dropout": methods.dora(DROPPED), "mtlora_dropout": methods.mtlora(DROPPED)}
HEAD = HeadConfig(kind="deep", batch_norm=True, dropout=0.1)
FLAGS = {
    "jax_numpy_rank_promotion": "raise",
    "jax_enable_x64": True,
    "jax_default_matmul_precision": "bfloat16",
    "jax_threefry_partitionable": False,
    "jax_transfer_guard": "log",
}


@contextlib.contextmanager
def flag(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def objective(model):
    """Augmentation, encoder, heads under dropout, masked losses and their balance, of one batch."""

    def function(variables, images, key):
        floats = augment.augment(images, key, jnp.arange(len(images)), config=augment.AugmentConfig())
        rows = jnp.arange(len(images))
        features = encode(model, variables["params"], floats, rows=rows, dropout_key=key)
        logits, _ = classify_in_training(model, variables, features, key)
        batch = {f"labels/{task.name}": jnp.zeros(len(images), jnp.int32) for task in model.tasks}
        batch |= {f"mask/{task.name}": jnp.ones(len(images), bool) for task in model.tasks}
        losses = task_losses(logits, batch, [task.name for task in model.tasks])
        config = balancing.BalancingConfig()
        log_var = balancing.init(list(losses), config)
        return balancing.total(losses, log_var, config)[0]

    return function


def trace(model):
    """Traces gradient and prediction of a model; returns the types of the gradient's leaves."""
    images = jax.ShapeDtypeStruct((4, model.config.image_size, model.config.image_size, 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = dict(
        jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32))
    )
    gradient = jax.eval_shape(jax.grad(objective(model), allow_int=True), variables, images, key)
    out = jax.eval_shape(lambda v, x: forward(model, v, x), variables, images)
    return {leaf.dtype for leaf in jax.tree.leaves((gradient["params"], out))}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_explicit_about_ranks(name):
    model = towers.model(METHODS[name], head=HEAD)
    with jax.numpy_rank_promotion("raise"):
        trace(model)


@pytest.mark.parametrize("variant", ["tiny-dense", "tiny-demo", "tiny-faces"])
def test_every_branch_of_the_encoder_is_explicit_about_ranks(variant):
    with jax.numpy_rank_promotion("raise"):
        trace(towers.model(methods.lora(towers.LORA), variant))


@pytest.mark.parametrize("resample", ["official", "timm"])
@pytest.mark.parametrize("pooling", ["attn", "tok", "avg"])
def test_other_grids_and_poolings_are_explicit_about_ranks(pooling, resample):
    config = dataclasses.replace(vision_config("tiny-test"), resample=resample, pooling=pooling)
    encoder, image = VisionEncoder(config), jnp.zeros((2, 40, 24, 3))
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), image)


def test_both_encoders_are_explicit_about_ranks():
    clip = CLIP(vision_config("tiny-test"), text_config=TEXT["tiny-test"])
    arguments = jnp.zeros((2, 32, 32, 3)), jnp.zeros((3, 8), jnp.int32)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda *x: clip.init_with_output(jax.random.key(0), *x), *arguments)


def test_what_promotes_ranks_would_be_caught():
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank"):
        jnp.zeros((2, 3)) + jnp.zeros(3)


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_leaves_types_as_they_are(name):
    model = towers.model(METHODS["dora_dropout"], head=HEAD)
    with flag(name, FLAGS[name]):
        assert trace(model) == {jnp.dtype("float32")}


COMMANDS = """
import runpy, sys
import jax
for name, value in {flags!r}.items():
    jax.config.update(name, value)
for name, arguments in {commands!r}:
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(f"scripts/{{name}}.py", run_name="__main__")
    except SystemExit as end:
        assert not end.code, (name, end.code)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "names", [tuple(FLAGS), ("jax_debug_nans", "jax_debug_infs", "jax_numpy_rank_promotion")]
)
def test_a_run_from_training_to_export_under_the_flags(tmp_path, names):
    flags = {name: FLAGS.get(name, True) for name in names}
    data, run = tmp_path / "data", tmp_path / "run"
    config = "configs/finetune.py:method=dora,tasks=age+gender,train=s/train,test=s/test,steps=3,batch_size=8"
    encoder = f"--config.model.pretrained={ROOT}/assets/tiny_demo.safetensors"
    drawn = ["--dataset=synthetic", "--source=synthetic_fairface", "--count=24", "--test_count=8"]
    commands = [
        ("prepare_data", [*drawn, f"--out={data}/s"]),
        ("train", [f"--workdir={run}", f"--config={config}", f"--config.data.root={data}", encoder]),
        (
            "predict",
            [f"--model={run}", f"--out={tmp_path}/rows.csv", "--faces=crop", "docs/images/demo_emotion.png"],
        ),
        ("export", [f"--model={run}", "--format=onnx", "--int8", f"--out={tmp_path}/onnx"]),
        ("export", [f"--model={run}", "--format=stablehlo", f"--out={tmp_path}/stablehlo"]),
    ]
    for command in commands:
        code = COMMANDS.format(flags=flags, commands=[command])
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (command, done.stderr[-2000:])
    assert "float64" not in "".join(path.read_text() for path in run.rglob("manifest.json"))
    assert (tmp_path / "onnx" / "model.int8.onnx").exists() and (tmp_path / "rows.csv").stat().st_size
