"""Plans of the backbones beside the Perception Encoder, against their compiled steps and their shapes."""

import jax
import pytest

from softbio_jax.models.config import vision_config
from softbio_jax.models.flops import vision_flops
from softbio_jax.planning import fit, search
from softbio_jax.runs import build
from softbio_jax.runs.config import config_from
from tests.planning.compiled_cost import matmul_flops
from tests.runs.tiny import changed, config_on

BATCH = 16
# Those without registers and with a plain MLP are among the published ones below.
TINY = (
    "tiny-dinov3-plus",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("tiny-clip", "tiny-dinov2-reg4", "tiny-siglip2")
    ),
)
SMALLEST = (("clip-b32", 224), ("dinov2-s14", 112), ("dinov3-s16", 112), ("siglip2-b32-256", 256))


def _config(variant, **changes):
    return config_from(
        changed(config_on("nowhere"), model__variant=variant, compute__dtype="float32", **changes)
    )


@pytest.fixture(scope="module", params=TINY)
def planned(request):
    config = _config(request.param)
    return config, fit.fit(config, jax.devices()[:1], None, keep=True)


def test_the_operations_are_those_of_the_compiled_step(planned):
    _, found = planned
    assert matmul_flops(found.step.call.as_text()) == pytest.approx(found.flops, rel=0.03)


def test_attention_has_three_times_the_operations_of_its_forward_pass(planned):
    config, found = planned
    encoder = vision_config(config.model.variant)
    assert found.parts["attention"]["flops"] == 3 * BATCH * vision_flops(encoder).attention


def test_the_frozen_encoder_costs_its_forward_pass_and_the_gradient_of_its_activations(planned):
    config, found = planned
    forward = BATCH * vision_flops(vision_config(config.model.variant), projected=False).total
    assert 1.8 * forward < found.flops < 4 * forward


def test_the_arguments_are_the_state_the_weights_and_the_batch(planned):
    config, found = planned
    run = build.build(config)
    state, frozen = build.abstract_start(run)
    frozen.pop("proj", None)  # the heads read the pooled feature, so the compiler drops it
    leaves = jax.tree.leaves((state, frozen))
    image, rows = run.image_size**2 * 3, 4 + len(config.tasks) * (4 + 1)  # index, labels and masks
    key = 8
    expected = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + BATCH * (image + rows) + key
    assert found.arguments == pytest.approx(expected, abs=64)


@pytest.mark.long
def test_what_does_not_fit_a_chip_is_computed_in_parts_or_again(planned):
    config, found = planned
    leaner, fitted = search.fitting(config, jax.devices()[:1], limit=found.used - 1)
    assert fitted.fits and fitted.used < found.used
    assert leaner.train.microbatches > 1 or leaner.compute.remat != "none"


@pytest.mark.long
@pytest.mark.parametrize(("variant", "size"), SMALLEST)
def test_the_smallest_published_variants_are_planned_as_they_are_compiled(variant, size):
    config = _config(variant, model__image_size=size, train__batch_size=8)
    found = fit.fit(config, jax.devices()[:1], None, keep=True)
    assert matmul_flops(found.step.call.as_text()) == pytest.approx(found.flops, rel=0.03)
    grid = (size // vision_config(variant).patch_size,) * 2
    forward = 8 * vision_flops(vision_config(variant), grid=grid, projected=False).total
    assert 1.9 * forward < found.flops < 2.3 * forward  # adapters of rank 2 cost little
    leaves = jax.tree.leaves(build.abstract_start(build.build(config)))
    assert found.arguments == pytest.approx(sum(x.size * x.dtype.itemsize for x in leaves), rel=0.02)
    assert found.fits and found.temporaries > 0
