"""Names in a configuration that fit nothing, told before anything is opened."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import build
from softbio_jax.runs.config import config_from
from tests.runs.tiny import changed, config_on

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data__sampler": {"epoch_size": 8}}, "missing config key: config.data.sampler.name"),
        ({"data__sampler": {"name": "natrual"}}, "unknown sampler: data.sampler.name"),
        (
            {"data__sampler": {"name": "thesis", "emotion_shar": 0.2}},
            "sampler 'thesis'.*'emotion_shar': data.sampler",
        ),
        (
            {"balancing": {"kind": "fixed", "weights": {"agee": 2.0}}},
            "balancing.weights.agee: expected one of age, gender, emotion, found agee; fix: write 'age'",
        ),
        ({"compute": {"attention": "cudnn"}}, "without a GPU: compute.attention: expected xla or auto"),
        ({"compute": {"attention": "pallas"}}, "without a TPU: compute.attention: expected xla or auto"),
        (
            {"optimizer__rates__head": 1e-3},
            "learning rate of no parameter group: optimizer.rates.head: .*fix: write 'heads'",
        ),
    ],
)
def test_a_name_that_fits_nothing_is_told(change, told):
    with pytest.raises(UserError, match=told):
        build.build(config_from(changed(config_on("nowhere"), **change)))


def test_rates_of_other_methods_groups_may_stay():
    rates = dict.fromkeys(("blocks", "magnitude"), 1e-3)
    config = config_on("nowhere")
    config["optimizer"]["rates"] |= rates
    assert build.build(config).groups


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("--config.train.microbatches=3", "expected a multiple of 1 devices x 3 microbatches"),
        ("--config.train.microbatchs=3", "config.train.microbatchs: .*fix: write 'microbatches'"),
        (
            "--config.balancing.weights.age=2",
            r"config\.balancing\.weights: no group of the file; fix: .*: --config\.balancing\.weights=",
        ),
        ("--compiled=step", "a flag does not apply: --compiled.*fix: omit --compiled"),
    ],
)
def test_a_key_that_the_file_leaves_to_its_default_is_set_by_a_flag(tmp_path, override, told):
    done = subprocess.run(
        [
            sys.executable,
            "scripts/train.py",
            f"--workdir={tmp_path / 'run'}",
            "--dry_run",
            "--config=configs/thesis.py:method=lp,variant=tiny-test,batch_size=8",
            override,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1
    assert re.search(told, done.stderr), done.stderr
