import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from softbio_jax import parallel
from softbio_jax.errors import UserError
from softbio_jax.planning import table
from softbio_jax.planning.topology import GENERATIONS, devices_of
from softbio_jax.runs.chips import CHIPS, chip_of

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("topology", ["v5", "v5e", "v5e:", "v99:2x2", "h100:8", ""])
def test_an_unknown_topology_is_reported(topology):
    with pytest.raises(UserError, match="unknown topology"):
        devices_of(topology)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_has_a_published_peak(generation):
    chip = CHIPS[generation]
    assert chip.name.startswith("TPU") and min(chip.memory, chip.flops, chip.bandwidth) > 0


def test_without_the_compiler_it_reports_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no TPU compiler.*pip install 'softbio-jax\[tpu\]'"):
        devices_of("v5e:2x4")


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "devices"),
    [("v4:2x2x1", 4), ("v5e:2x4", 8), ("v5p:4x4x4", 64), ("v6e:2x4", 8), ("7x:2x2x1", 8)],
)
def test_a_device_is_the_published_chip(topology, devices):
    found, chip = devices_of(topology)
    assert len(found) == devices and chip_of(found[0].device_kind) is chip


@needs_libtpu
@pytest.mark.parametrize("fsdp", [4, 8, 16, 64])
def test_any_divisor_of_a_torus_makes_groups(fsdp):
    mesh = parallel.make_mesh(fsdp=fsdp, devices=devices_of("v5p:4x4x4")[0])
    assert dict(mesh.shape) == {"data": 64 // fsdp, "fsdp": fsdp}


@needs_libtpu
@pytest.mark.parametrize("shape", ["3x5", "nonsense"])
def test_a_shape_that_does_not_exist_is_reported(shape):
    with pytest.raises(UserError, match="no slice of this shape"):
        devices_of(f"v5e:{shape}")


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["--topology=v9:2x2"], "error: unknown topology: --topology: expected local, or v4,"),
        (["--config.train.batch_size=0"], "error: bad config value: config.train.batch_size: "),
    ],
)
def test_the_script_reports_it_in_one_line(arguments, reported):
    done = _plan("method=lp", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(reported) and done.stderr.count("\n") == 1


def test_the_plan_of_a_run_on_cached_features_says_which_step_it_is_of():
    tiny = "method=lp,variant=tiny-test,batch_size=8"
    done = _plan(tiny, "--config.train.cache_features=True")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == table.CACHED


def _plan(row, *arguments):
    return subprocess.run(
        [sys.executable, "scripts/plan.py", f"--config=configs/thesis.py:{row}", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
