"""Augmentation: each effect, its range, and independence of the batch layout."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from softbio_jax.data import augment
from softbio_jax.data.augment import OFF, AugmentConfig
from softbio_jax.errors import UserError

augmented = jax.jit(augment.augment, static_argnames="config")
normalized = jax.jit(augment.normalize)


def images(count=8, height=24, width=24, seed=0):
    shape = (count, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def run(batch, config, seed=0, first=0):
    index = jnp.arange(first, first + len(batch))
    return np.asarray(augmented(batch, jax.random.key(seed), index, config=config))


def only(**fields):
    return dataclasses.replace(OFF, **fields)


def test_all_off_is_exactly_normalize():
    batch = images()
    np.testing.assert_array_equal(run(batch, OFF), np.asarray(normalized(batch)))


def test_normalize_maps_0_and_255_to_minus_1_and_1():
    ends = np.asarray(augment.normalize(np.array([0, 255], np.uint8)))
    np.testing.assert_array_equal(ends, np.float32([-1, 1]))


def test_full_augmentation_keeps_shape_type_and_range():
    out = run(images(height=20, width=28), AugmentConfig())
    assert out.shape == (8, 20, 28, 3) and out.dtype == np.float32
    assert out.min() >= -1 and out.max() <= 1


def test_flip_mirrors_about_half_of_the_examples():
    batch = images(count=400, height=4, width=6)
    plain = np.asarray(normalized(batch))
    out = run(batch, only(flip=0.5))
    kept = (out == plain).all((1, 2, 3))
    mirrored = (out == plain[:, :, ::-1]).all((1, 2, 3))
    assert (kept ^ mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6  # four standard deviations


@pytest.mark.parametrize("kind, name", ((0, "Brightness"), (1, "Contrast"), (2, "Color")))
@pytest.mark.parametrize("factor", (0.83, 1.0, 1.17))
def test_jitter_agrees_with_pillow(kind, name, factor):
    enhance = pytest.importorskip("PIL.ImageEnhance", reason="compares with Pillow")
    from PIL import Image

    image = images(count=1, height=40, width=56)[0]
    factors = jnp.ones(3).at[kind].set(factor)
    ours = np.asarray(augment.color_jitter(jnp.asarray(image), factors, jnp.arange(3)))
    theirs = np.asarray(getattr(enhance, name)(Image.fromarray(image)).enhance(factor))
    # Truncation to 8 bits may fall either side where the two round a product differently.
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_jitter_respects_the_order():
    image = jnp.asarray(images(count=1)[0])
    factors = jnp.array([1.2, 0.8, 0.8])
    in_order = np.asarray(augment.color_jitter(image, factors, jnp.array([0, 1, 2])))
    by_hand = image
    for kind in (2, 0, 1):
        alone = jnp.ones(3).at[kind].set(factors[kind])
        by_hand = augment.color_jitter(by_hand, alone, jnp.arange(3))
    reordered = np.asarray(augment.color_jitter(image, factors, jnp.array([2, 0, 1])))
    np.testing.assert_array_equal(reordered, np.asarray(by_hand))
    assert (reordered != in_order).any()


def test_brightness_factors_fill_their_range():
    grey = np.full((500, 2, 2, 3), 100, np.uint8)
    level = (run(grey, only(brightness=0.2))[:, 0, 0, 0] + 1) * 127.5
    assert 79.9 <= level.min() < 82 and 118 < level.max() <= 120.1
    assert abs(level.mean() - 99.5) < 2  # truncation to whole levels costs a half


def warped(image, degrees, shift=(0.0, 0.0), scale=1.0):
    inverse = augment.inverse_map(jnp.float32(degrees), jnp.float32(scale))
    return augment.affine(jnp.asarray(image), inverse, jnp.array(shift))


def test_affine_identity_is_exact():
    image = images(count=1, height=15, width=22)[0]
    out = warped(image, 0)
    np.testing.assert_array_equal(np.asarray(out), image.astype(np.float32))


def test_affine_shift_moves_right_and_down_and_fills_with_black():
    image = images(count=1, height=10, width=12)[0]
    out = warped(image, 0, (3.0, 2.0))
    expected = np.zeros_like(image)
    expected[2:, 3:] = image[:-2, :-3]
    np.testing.assert_array_equal(np.asarray(out), expected.astype(np.float32))


def test_affine_quarter_turn_is_clockwise():
    image = images(count=1, height=9, width=9)[0]
    out = warped(image, 90)
    np.testing.assert_allclose(np.asarray(out), np.rot90(image, -1), atol=1e-2)


@pytest.mark.parametrize("degrees, scale", ((10.0, 0.9), (-7.5, 1.1), (45.0, 0.6)))
def test_affine_agrees_with_scipy(degrees, scale):
    height, width = 21, 30
    image = images(count=1, height=height, width=width)[0]
    shift = (1.0, -2.0)
    ours = warped(image, degrees, shift, scale)
    turn = np.deg2rad(degrees)
    forward = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    y, x = np.mgrid[:height, :width]
    target = np.stack([x, y], -1) - center - shift
    source = target @ np.linalg.inv(forward).T + center
    theirs = [
        ndimage.map_coordinates(
            image[..., c].astype(float), (source[..., 1], source[..., 0]), order=1, mode="grid-constant"
        )
        for c in range(3)
    ]
    np.testing.assert_allclose(np.asarray(ours), np.stack(theirs, -1), atol=2e-2)


def test_zoom_and_rotation_stay_within_their_limits():
    shape = (32, 32, 3)
    draw = jax.vmap(lambda key: augment._draw_affine(key, shape, AugmentConfig()))
    degrees, shift, scale = map(np.asarray, draw(jax.random.split(jax.random.key(0), 2000)))
    assert -10 <= degrees.min() < -9.8 and 9.8 < degrees.max() <= 10
    assert 0.9 <= scale.min() < 0.903 and 1.097 < scale.max() <= 1.1
    assert set(np.unique(shift)) == {-2, -1, 0, 1, 2}  # round(0.05 * 32 * u)


@pytest.mark.parametrize("side", [48, 336, 448])
def test_a_drawn_maps_coordinates_are_exact_in_float32(side):
    def drawn(key):
        degrees, shift, scale = augment._draw_affine(key, (side, side, 3), AugmentConfig(scale=(0.6, 1.4)))
        return augment._short(augment.inverse_map(degrees, scale), (side, side, 3)), shift

    inverse, shift = map(np.asarray, jax.vmap(drawn)(jax.random.split(jax.random.key(0), 500)))
    cos, sin = inverse[:, :1], inverse[:, 1:]
    center = np.float32((side - 1) / 2)
    x, y = ((np.arange(side, dtype=np.float32) - center - shift[:, i : i + 1]) for i in (0, 1))
    single = cos * x + sin * y[:, ::-1] + center
    double = cos.astype(float) * x + sin.astype(float) * y[:, ::-1] + float(center)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, double)


def erased_boxes(count, config, size=64):
    """(height, width) of the erased rectangle of each example; zeros where none was."""
    out = run(
        np.zeros((count, size, size, 3), np.uint8),
        only(erase=config.erase, erase_area=config.erase_area, erase_ratio=config.erase_ratio),
    )
    gone = out == 0
    np.testing.assert_array_equal(gone, np.broadcast_to(gone[..., :1], gone.shape))
    gone = gone[..., 0]
    boxes = np.stack([gone.any(2).sum(1), gone.any(1).sum(1)], 1)
    np.testing.assert_array_equal(boxes.prod(1), gone.sum((1, 2)))  # a full rectangle
    return boxes


def test_erasing_hits_half_with_areas_and_ratios_in_range():
    boxes = erased_boxes(1000, AugmentConfig())
    hit = boxes.prod(1) > 0
    assert 0.43 < hit.mean() < 0.57
    height, width = boxes[hit].T
    area, ratio = height * width / 64**2, height / width
    assert 0.017 < area.min() < 0.03 and 0.19 < area.max() < 0.21  # rounding to whole pixels
    assert abs(area.mean() - 0.11) < 0.01
    assert ratio.min() > 0.25 and ratio.max() < 3.8
    assert abs(np.log(ratio).mean()) < 0.12


def test_an_oversized_rectangle_is_cut_to_the_image():
    config = AugmentConfig(erase=1, erase_area=(0.9, 1.0), erase_ratio=(3, 3.3))
    boxes = erased_boxes(50, config, size=16)
    assert (boxes[:, 0] == 16).all() and (boxes[:, 1] < 16).all()


def test_switching_one_stage_off_leaves_the_others_draws_alone():
    batch = np.zeros((64, 16, 16, 3), np.uint8)
    full = run(batch, AugmentConfig()) == 0
    alone = run(batch, only(erase=0.5)) == 0
    np.testing.assert_array_equal(full, alone)


def test_results_do_not_depend_on_batch_split_or_order():
    batch = images(count=12)
    index = np.arange(100, 112)

    def step(batch, index):
        return augmented(batch, jax.random.key(3), index, config=AugmentConfig())

    whole = np.asarray(step(batch, index))
    split = [np.asarray(step(batch[a:b], index[a:b])) for a, b in ((0, 5), (5, 6), (6, 12))]
    np.testing.assert_array_equal(np.concatenate(split), whole)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(np.asarray(step(batch[order], index[order])), whole[order])


def test_index_and_key_both_change_the_result():
    batch = np.repeat(images(count=1), 2, axis=0)
    here = run(batch, AugmentConfig())
    assert (here[0] != here[1]).any()
    assert (here != run(batch, AugmentConfig(), seed=1)).any()
    np.testing.assert_array_equal(here[1], run(batch, AugmentConfig(), first=1)[0])


def test_eight_devices_give_the_same_pixels_as_one():
    program = textwrap.dedent("""
        import jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from softbio_jax.data import augment
        assert len(jax.devices()) == 8
        batch = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), dtype=np.uint8)
        index = np.arange(16)
        config = augment.AugmentConfig()
        step = jax.jit(lambda x, i: augment.augment(x, jax.random.key(0), i, config=config))
        by_data = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
        spread = step(jax.device_put(batch, by_data), jax.device_put(index, by_data))
        assert len(spread.sharding.device_set) == 8
        np.testing.assert_array_equal(np.asarray(spread), np.asarray(step(batch, index)))
    """)
    environment = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=8")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "fields", ({"flip": 1.5}, {"brightness": -0.1}, {"scale": (1.1, 0.9)}, {"erase_area": (0.1, 1.5)})
)
def test_bad_settings_name_the_field(fields):
    with pytest.raises(UserError, match=f"augment.{next(iter(fields))}"):
        AugmentConfig(**fields)
