"""What `auto` is on a device, from what JAX says of it."""

import dataclasses
import types

import jax
import pytest

from softbio_jax.models.config import ComputeConfig
from softbio_jax.runs import config as config_lib
from softbio_jax.runs.chips import CHIPS, chip_of, fastest_dtype
from softbio_jax.runs.config import config_from
from tests.runs.tiny import changed


def device(platform, kind, capability=None):
    found = types.SimpleNamespace(platform=platform, device_kind=kind)
    if capability is not None:
        found.compute_capability = capability
    return found


TPU, CPU = device("tpu", "TPU v5 lite"), device("cpu", "cpu")
T4, P100 = device("gpu", "Tesla T4", "7.5"), device("gpu", "Tesla P100-PCIE-16GB", "6.0")
A100, GPU = device("gpu", "NVIDIA A100-SXM4-40GB", "8.0"), device("cuda", "NVIDIA B200", "10.0")


@pytest.mark.parametrize(
    ("devices", "dtype"),
    [
        ([TPU], "bfloat16"),
        ([CPU], "float32"),
        ([T4], "float16"),
        ([P100], "float16"),
        ([device("gpu", "Tesla V100-SXM2-16GB", "7.0")], "float16"),
        ([device("gpu", "NVIDIA GeForce GTX 1080", "6.1")], "float16"),
        ([A100], "bfloat16"),
        ([device("gpu", "NVIDIA L4", "8.9")], "bfloat16"),
        ([GPU], "bfloat16"),  # 10.0 is not 1
        ([device("rocm", "AMD Instinct MI250X", "gfx90a")], "bfloat16"),
        ([device("METAL", "Apple M3")], "float32"),
        # A target that is only described has a name alone.
        ([device("gpu", "Tesla T4")], "float16"),
        ([device("gpu", "Tesla P100-PCIE-16GB")], "float16"),
        ([device("gpu", "NVIDIA H100 80GB HBM3")], "bfloat16"),
        ([A100, T4], "float16"),
        ([T4, A100], "float16"),
        ([TPU] * 8, "bfloat16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(d.device_kind for d in value[:2]),
)
def test_a_run_computes_in_what_its_devices_multiply(config, devices, dtype):
    assert fastest_dtype(devices) == dtype
    assert config_lib.resolve_dtype(config_from(config), devices).compute.dtype == dtype


@pytest.mark.parametrize("explicit", ["float32", "bfloat16", "float16"])
def test_a_type_that_is_named_is_kept(config, explicit):
    auto = config_from(config)
    config = config_from(changed(config, compute__dtype=explicit))
    assert dataclasses.replace(auto, compute=ComputeConfig(dtype=explicit)) == config
    for devices in ([TPU], [CPU], [T4]):
        assert config_lib.resolve_dtype(config, devices) == config


@pytest.mark.parametrize(
    ("compute", "frozen", "platform", "dtype"),
    [
        ("float16", "auto", "gpu", "float16"),
        ("bfloat16", "auto", "gpu", "bfloat16"),
        ("float32", "auto", "gpu", "bfloat16"),
        ("float16", "auto", "cpu", "float32"),
        ("float16", "bfloat16", "gpu", "bfloat16"),
    ],
)
def test_frozen_kernels_have_the_type_that_multiplies_them(config, compute, frozen, platform, dtype):
    config = config_from(changed(config, compute__dtype=compute, frozen_dtype=frozen))
    assert config_lib.frozen_dtype(config, platform) == dtype


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Tesla T4", "t4"),
        ("Tesla P100-PCIE-16GB", "p100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GH200 480GB", "h200"),
    ],
)
def test_gpus_are_known_by_a_word_of_their_name(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.parametrize(
    "kind",
    ["NVIDIA RTX A1000", "NVIDIA T400 4GB", "NVIDIA L40S", "NVIDIA GeForce RTX 4090 Laptop GPU", "cpu"],
)
def test_a_part_of_a_word_is_another_chip(kind):
    assert chip_of(kind) is None


def test_this_machine_has_a_type():
    assert fastest_dtype(jax.devices()) in ("float32", "bfloat16", "float16")
