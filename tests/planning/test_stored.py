"""A compiled step in a folder: the same bits as a run that compiles its own, and refused elsewhere."""

import json

import jax
import numpy as np
import pytest

from softbio_jax.console import QUIET
from softbio_jax.errors import UserError
from softbio_jax.planning import stored
from softbio_jax.planning.compiling import Compiler
from softbio_jax.runs import build
from softbio_jax.runs.config import config_from
from softbio_jax.runs.session import Session
from tests.compiling import train_steps
from tests.runs.tiny import changed, config_on


def config_of(**values):
    lora = {"name": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.5}}
    return config_from(changed(config_on("nowhere"), method=lora, compute={"dtype": "auto"}, **values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stored_in(tmp_path_factory.mktemp("stored") / "v1" / "step")


def stored_in(folder):
    """As scripts/plan.py --save writes it."""
    with Compiler("local", console=QUIET) as compiler:
        found = compiler.fit(config_of(), name="it", save=folder)
    assert found.fits and found.step is None
    return folder


@pytest.fixture
def compiled():
    return train_steps()


def batches(session):
    size, rng = session.run.image_size, np.random.default_rng(0)
    for first in (0, 16, 32):
        images = rng.integers(0, 256, (16, size, size, 3), dtype=np.uint8)
        batch = {"image": images, "index": np.arange(first, first + 16)}
        for task in session.run.config.tasks:
            batch[f"labels/{task}"] = rng.integers(0, 2, 16).astype(np.int32)
            batch[f"mask/{task}"] = rng.random(16) < 0.8
        yield batch


def trained(step):
    session = Session(build.build(config_of(seed=3)))
    session.compile(step)
    metrics = [session.train(batch) for batch in batches(session)]
    return jax.device_get((session.state, metrics))


@pytest.mark.long
def test_a_stored_step_trains_to_the_same_bits_and_is_not_compiled(tmp_path, compiled):
    wanted = trained(None)
    assert compiled
    folder = stored_in(tmp_path / "step")  # JAX's cache has this step by now
    compiled.clear()
    found = stored.load(folder, build.build(config_of(seed=3)))
    assert found.step is not None and not found.why
    ours = trained(found.step)
    assert not compiled, "neither loading nor training compiles the step"
    for a, b in zip(*map(jax.tree.leaves, (ours, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_takes_only_what_it_was_compiled_for(folder):
    step = stored.load(folder, build.build(config_of())).step
    with pytest.raises(TypeError, match="not those that the step was compiled for"):
        step.call({"a": np.ones(3)})


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"optimizer__weight_decay": 0.5}, "its configuration has optimizer.weight_decay 0.01, here 0.5"),
        ({"train__batch_size": 32}, "its configuration has train.batch_size 16, here 32"),
        ({"tasks": ("age",)}, "its configuration has tasks"),
        ({"frozen_dtype": "bfloat16"}, "its configuration has frozen_dtype float32, here bfloat16"),
    ],
)
def test_another_configuration_does_not_get_it(folder, values, why):
    found = stored.load(folder, build.build(config_of(**values)))
    assert found.step is None and found.why.startswith(why)


def test_what_the_step_does_not_depend_on_may_differ(folder):
    config = config_of(seed=9, train__log_every=3, data__workers=2, train__eval_batch_size=32)
    assert stored.load(folder, build.build(config)).step is not None


def test_other_devices_do_not_get_it(folder):
    found = stored.load(folder, build.build(config_of()), devices=jax.devices()[:4])
    assert found.step is None and found.why.startswith("its devices has order")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"versions": {"jax": "0.1", "jaxlib": "0.1", "libtpu": ""}}, "its versions has jax 0.1, here "),
        ({"devices": {"platform": "tpu", "kind": "TPU v6e", "order": [0]}}, "its devices has kind TPU v6e"),
        ({"program": "another"}, "this code makes another program"),
        ({"executable": "another"}, "step.bin is damaged"),
    ],
)
def test_another_version_or_device_or_a_damaged_file_is_not_run(folder, tmp_path, change, why):
    manifest = json.loads((folder / stored.MANIFEST).read_text()) | change
    (tmp_path / stored.MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / stored.EXECUTABLE).write_bytes((folder / stored.EXECUTABLE).read_bytes())
    found = stored.load(tmp_path, build.build(config_of()))
    assert found.step is None and found.why.startswith(why)


def test_bytes_that_are_no_executable_are_a_reason(folder, tmp_path):
    garbage = b"\x80\x04\x95" + bytes(100)  # the start of a pickle
    manifest = json.loads((folder / stored.MANIFEST).read_text())
    manifest["executable"] = stored.hashlib.sha256(garbage).hexdigest()
    (tmp_path / stored.MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / stored.EXECUTABLE).write_bytes(garbage)
    found = stored.load(tmp_path, build.build(config_of()))
    assert found.step is None and found.why.startswith("this machine cannot load it")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"format": 2}', "\x00"])
def test_a_folder_without_a_step_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / stored.MANIFEST).write_text(text)
    with pytest.raises(UserError, match="no compiled step in this folder"):
        stored.load(tmp_path, build.build(config_of()))


def test_a_folder_with_something_else_is_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not the folder of a compiled step"):
        stored.check_folder(tmp_path)
    stored.check_folder(tmp_path / "new")
