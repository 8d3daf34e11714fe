"""A run in float16: killed, resumed, moved to a device of another kind."""

import itertools
import json
import shutil

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import config as config_lib
from softbio_jax.runs import directory, state
from softbio_jax.train import loop
from tests.runs.tiny import changed, config_on, run_of


def _text(workdir, name):
    return (workdir / name).read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root):
    """On a GPU without bfloat16: an unbroken run, and one that resumes from step 4 on a CPU."""
    config = changed(
        config_on(data_root),
        tasks=("gender",),
        method={"name": "ap"},
        optimizer__warmup_steps=0,
        data__val_fraction=0.0,
        data__test=(),
        train__evaluate="last",
        train__log_every=1,
        train__keep=9,
    )
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("runs") / "broken"
    with pytest.MonkeyPatch.context() as patch:
        # So that the scale overflows, and grows again across the checkpoint that is resumed from.
        patch.setattr(state, "FIRST", np.float32(2**19))
        patch.setattr(state, "GROWTH_STEPS", 3)
        with pytest.MonkeyPatch.context() as gpu:
            gpu.setattr(config_lib, "fastest_dtype", lambda devices: "float16")
            loop.train_and_evaluate(*run_of(config), whole)
        shutil.copytree(whole, broken)
        for step in (6, 8):
            shutil.rmtree(broken / "checkpoints" / str(step))
        loop.train_and_evaluate(*run_of(config), broken)
    return config, whole, broken


def test_a_resumed_run_ends_in_the_same_bits(runs):
    _, whole, broken = runs
    assert _text(broken, "metrics.jsonl") == _text(whole, "metrics.jsonl")
    ends = [json.loads(_text(run, "checkpoints/8/manifest.json"))["leaves"] for run in (whole, broken)]
    assert ends[0] == ends[1]
    assert {path for path in ends[0] if path.startswith("loss_scale/")} == {
        "loss_scale/scale",
        "loss_scale/good_steps",
        "loss_scale/overflows",
    }


def test_what_the_scaler_skips_is_logged_apart(runs):
    _, whole, _ = runs
    lines = [json.loads(line) for line in _text(whole, "metrics.jsonl").splitlines()]
    overflows = [line["train/overflows"] for line in lines]
    scales = [line["train/loss_scale"] for line in lines]
    assert overflows[-1] > 0 and overflows == sorted(overflows)
    assert any(b > a for a, b in itertools.pairwise(scales)), "the scale never grew"
    assert all(line["train/skipped"] == 0 for line in lines)
    assert not (whole / "skipped.jsonl").exists()


def test_the_resolved_type_is_recorded_and_kept(runs):
    config, whole, broken = runs
    for workdir in (whole, broken):
        assert json.loads(_text(workdir, "run.json"))["compute_dtype"] == "float16"
        assert directory.read_config(workdir).compute.dtype == "float16"
    run, _ = run_of(config)
    assert run.config.compute.dtype == "float32", "here"
    assert directory.keep_dtype(run, broken).model.compute.dtype == "float16"


def test_another_type_that_is_named_is_refused(runs):
    config, _, broken = runs
    run, data = run_of(changed(config, compute__dtype="float32"))
    with pytest.raises(UserError, match=r"compute\.dtype was 'float16', is 'float32'"):
        loop.train_and_evaluate(run, data, broken)
