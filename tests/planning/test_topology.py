import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from softbio_jax.errors import UserError
from softbio_jax.planning import table
from softbio_jax.planning.topology import GENERATIONS, described, devices_of, resolve
from softbio_jax.runs import parallel
from softbio_jax.runs.chips import CHIPS, chip_of, fastest_dtype

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("topology", ["v5", "v5e", "v5e:", "v99:2x2", "2xT4:2", "0xT4", "h", ""])
def test_an_unknown_topology_is_reported(topology):
    with pytest.raises(UserError, match="unknown topology"):
        devices_of(topology)


@pytest.mark.parametrize(
    ("rented", "topology"),
    [
        ("v5e-1", "v5e:1x1"),
        ("v5e-8", "v5e:2x4"),
        ("v5litepod-16", "v5e:4x4"),
        ("V6E-8", "v6e:2x4"),
        ("v4-8", "v4:2x2x1"),  # cores
        ("v5p-8", "v5p:2x2x1"),
        ("v5p:4x4x4", "v5p:4x4x4"),
        ("T4", "t4:1"),
        ("2xT4", "t4:2"),
        ("Tesla T4", "t4:1"),
        ("A100", "a100:1"),
        ("A100-40GB", "a100-40:1"),
        ("a100-80gb", "a100:1"),
        ("8xH100", "h100:8"),
        ("h100:8", "h100:8"),
        ("H200", "h200:1"),
        ("B200", "b200:1"),
        ("L4", "l4:1"),
        ("P100", "p100:1"),
        ("RTX 4090", "rtx4090:1"),
        ("rtx-5090", "rtx5090:1"),
        ("RTX4090", "rtx4090:1"),
        ("RTX5090", "rtx5090:1"),
        ("2xRTX4090", "rtx4090:2"),
        ("rtx4090x2", "rtx4090:2"),
        ("GeForce RTX 4090 x2", "rtx4090:2"),
        ("4090", "rtx4090:1"),
        ("GPU T4 x2", "t4:2"),
        ("T4 GPU", "t4:1"),
        ("TPU v5e-8", "v5e:2x4"),
        ("v6e-1 TPU", "v6e:1x1"),
        ("NVIDIA A100-SXM4-40GB", "a100-40:1"),
        ("A100 80G", "a100:1"),
        ("H100-80GB", "h100:1"),
        ("local", "local"),
    ],
)
def test_the_names_that_people_rent(rented, topology):
    assert resolve(rented) == topology
    assert resolve(topology) == topology


def test_every_name_of_the_planning_page_is_known():
    page = (ROOT / "docs/planning.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")][1:6]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) > 12
    for name in names:
        assert resolve(name)


@pytest.mark.parametrize(
    ("mistyped", "meant"), [("v5e1", "v5e-1"), ("RTX409", "rtx4090"), ("locl", "local"), ("v6-8", "v6e-8")]
)
def test_a_mistyped_name_gets_the_nearest_one(mistyped, meant):
    with pytest.raises(UserError, match=f"unknown topology: .*; fix: write '{meant}'"):
        resolve(mistyped)
    assert resolve(meant)


@pytest.mark.parametrize(
    "other", ["rt", "rtx", "x", "2x", "RTX 4090 Laptop", "A100-20GB", "0xT4", "t4:0", ""]
)
def test_a_chip_that_is_not_known_is_refused(other):
    with pytest.raises(UserError, match="unknown topology"):
        resolve(other)


@pytest.mark.parametrize("size", ["v5e-3", "v4-1", "v5litepod-12"])
def test_a_slice_that_is_not_rented_names_those_that_are(size):
    with pytest.raises(UserError, match=r"no slice of this size: .* with N of .*8, .*; fix: "):
        resolve(size)


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
    [
        ("v4-8", 4),
        ("v5e-1", 1),
        ("v5e-4", 4),
        ("v5e:2x4", 8),
        ("v5p:4x4x4", 64),
        ("v6e-1", 1),
        ("7x:2x2x1", 8),
    ],
)
def test_a_device_is_the_published_chip(topology, devices):
    target = devices_of(topology)
    assert len(target.devices) == devices and chip_of(target.devices[0].device_kind) is target.chip
    without_compiler = described(resolve(topology))
    assert len(without_compiler) == devices and without_compiler[0].platform == "tpu"
    assert target.exact and fastest_dtype(without_compiler) == "bfloat16"


@needs_libtpu
@pytest.mark.parametrize("fsdp", [4, 8, 16, 64])
def test_any_divisor_of_a_torus_makes_groups(fsdp):
    mesh = parallel.make_mesh(fsdp=fsdp, devices=devices_of("v5p:4x4x4").devices)
    assert dict(mesh.shape) == {"data": 64 // fsdp, "fsdp": fsdp}


@needs_libtpu
@pytest.mark.parametrize("shape", ["3x5", "nonsense"])
def test_a_shape_that_does_not_exist_is_reported(shape):
    with pytest.raises(UserError, match="no slice of this shape"):
        devices_of(f"v5e:{shape}")


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["--topology=v9:2x2"], "error: unknown topology: --topology: expected a name such as local,"),
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
