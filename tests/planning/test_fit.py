"""The real train step, compiled for the eight simulated devices, and what its numbers add up to."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.errors import UserError
from softbio_jax.planning import fit, table
from softbio_jax.planning.topology import devices_of
from softbio_jax.runs import build
from softbio_jax.runs.chips import CHIPS, chip_of
from softbio_jax.runs.config import config_from
from tests.compiling import OLDER_XLA
from tests.runs.tiny import changed, config_on

SLOW = dataclasses.replace(CHIPS["v5e"], flops=1e9, bandwidth=1e9, link=1e8)
BATCH, LAYERS, TOKENS, WIDTH = 16, 3, 17, 32  # of the tiny run


def _config(**values):
    return config_from(changed(config_on("nowhere"), **values))


@pytest.fixture(scope="module")
def found():
    return fit.fit(_config(), devices_of("local")[0], SLOW)


def test_the_local_step_is_compiled_without_data_or_weights(found):
    assert found.fits and found.chips == 8 and devices_of("local")[1] is None
    assert found.arguments > 0 and found.temporaries > 0
    # The frozen encoder forward, and backward to its adapters: between two and four times forward.
    forward = 16 * 17 * 3 * 2 * 12 * 32**2
    assert 1.8 * forward < found.flops < 4 * forward
    assert table.verdict(found, topology="local").startswith("fits: batch 16 with remat none")


def test_a_chip_moves_at_least_what_it_is_given(found):
    assert found.traffic > found.arguments


def test_the_bound_is_the_smaller_of_both(found):
    by_compute, by_memory = 16 * 8 * 1e9 / found.flops, 16 * 1e9 / found.traffic
    assert found.images_per_second == pytest.approx(min(by_compute, by_memory))
    assert found.bound_by == ("compute" if by_compute < by_memory else "memory")
    lean = dataclasses.replace(found, memory_seconds=found.compute_seconds / 2)
    assert lean.images_per_second == pytest.approx(by_compute) and lean.bound_by == "compute"
    greedy = dataclasses.replace(found, memory_seconds=2 * found.compute_seconds)
    assert greedy.images_per_second == pytest.approx(by_compute / 2)
    assert greedy.bound_by == "memory"


def test_the_parts_add_up_to_the_step(found):
    assert sum(part["flops"] for part in found.parts.values()) == found.flops
    assert sum(part["bytes"] for part in found.parts.values()) == found.traffic
    named = {"attention", "products", "adapters", "norms and elementwise", "heads and loss", "optimizer"}
    assert named <= set(found.parts)
    # Its one product is of a flag per leaf that is a number.
    state, _ = build.abstract_start(build.build(_config()))
    numbers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert found.parts["optimizer"]["flops"] == 2 * len(numbers)
    assert found.parts["optimizer"]["bytes"] > 0
    # What no module or transformation names: copies of the compiler.
    assert found.parts["other"]["bytes"] < 0.15 * found.traffic


def test_attention_has_the_operations_of_its_products(found):
    # Two products forward and two for each of them backward, in the blocks and of the pooling's probe.
    forward = LAYERS * 4 * TOKENS**2 * WIDTH + 4 * TOKENS * WIDTH
    # The backward pass is one function: the probe's own gradient is traced, though nothing reads it.
    assert found.parts["attention"]["flops"] == BATCH * 3 * forward


def test_communication_is_a_third_bound(found):
    assert found.link_seconds == found.sent / 1e8
    # Gradients of A and B of rank 2 are summed over eight devices: each sends 2 (n - 1) / n of their bytes.
    trained = LAYERS * 2 * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1)) * WIDTH
    assert found.sent > 2 * 7 / 8 * 4 * trained
    far = dataclasses.replace(found, link_seconds=1.0)
    assert far.bound_by == "links" and far.images_per_second == BATCH


def test_a_step_is_estimated_to_take_longer_than_its_bounds(found):
    bounds = max(found.compute_seconds, found.memory_seconds, found.link_seconds)
    assert bounds < found.estimated_seconds < 10 * bounds
    assert sum(part["seconds"] for part in found.parts.values()) < found.estimated_seconds
    text = table.details(found)
    assert "an estimate, not measured" in text and "links at their peak" in text
    assert all(name in text for name in found.parts)


def test_the_lines_are_those_of_the_package(found):
    listed = [line for line in found.lines if line["line"]]
    # What the compiler of jax 0.7 fuses has a line less often: 0.61 of the bytes there.
    assert sum(line["bytes"] for line in listed) > (0.5 if OLDER_XLA else 0.7) * found.traffic
    assert any(line["line"].startswith("softbio_jax/adapters/math.py:") for line in listed)
    bytes_ = [line["bytes"] for line in found.lines]
    assert bytes_ == sorted(bytes_, reverse=True) and sum(bytes_) <= found.traffic
    shown = table.by_line(found).splitlines()
    assert len(shown) == len(found.lines) + 2  # a header and the others


def test_without_a_published_peak_there_is_no_bound(found):
    unknown = dataclasses.replace(
        found, compute_seconds=0, memory_seconds=0, link_seconds=0, estimated_seconds=0, limit=0
    )
    assert unknown.images_per_second is None
    assert "images/s" not in table.details(unknown, epoch_images=100)


def test_more_than_a_chip_has_does_not_fit(found):
    # As on a GPU, whose compiler does not refuse.
    tight = fit.apply_limit(dataclasses.replace(found, limit=found.used - 1))
    assert not tight.fits and tight.needed.startswith("Used ")
    assert fit.apply_limit(dataclasses.replace(found, limit=found.used)).fits


@pytest.mark.long
def test_large_weights_are_planned_as_they_will_be_sharded(monkeypatch, found):
    monkeypatch.setattr("softbio_jax.runs.parallel._SHARDED_FROM", 0)
    sharded = fit.fit(_config(mesh={"fsdp": 8}), devices_of("local")[0], None)
    assert sharded.arguments < 0.75 * found.arguments
    assert sharded.flops == found.flops


def test_a_batch_that_does_not_fit_the_mesh_is_reported():
    with pytest.raises(UserError, match=r"train.batch_size: expected a multiple of 8"):
        fit.fit(_config(train__batch_size=12), devices_of("local")[0], None)


@pytest.mark.parametrize(
    ("message", "words", "size"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. "
            "Used 27.10G of 15.75G hbm. Exceeded hbm capacity by 11.35G.",
            "Used 27.10G of 15.75G hbm",
            27.1 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (512.5M) exceeds available HBM (15.75G).",
            "temporaries (512.5M) exceeds available HBM (15.75G)",
            512.5 * 2**20,
        ),
        ("RESOURCE_EXHAUSTED: in words of its own", "RESOURCE_EXHAUSTED: in words of its own", 0),
    ],
)
def test_what_the_compiler_needs_is_read(found, message, words, size):
    assert fit._needed(message) == words
    refused = dataclasses.replace(found, fits=False, needed=words, arguments=0, temporaries=0)
    assert refused.used == size


@pytest.mark.parametrize(
    ("kind", "name"), [("TPU v5 lite", "v5e"), ("TPU v6 lite", "v6e"), ("NVIDIA H100 80GB HBM3", "h100")]
)
def test_chips_are_known_by_what_jax_calls_them(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
@pytest.mark.long
def test_a_tpu_step_is_compiled_without_a_tpu():
    planned = fit.fit(_config(), *devices_of("v5e:2x4"))
    assert planned.fits and planned.limit == 16 * 2**30
    assert planned.traffic > planned.arguments and planned.images_per_second > 0
