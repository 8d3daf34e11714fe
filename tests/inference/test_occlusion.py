import numpy as np

from softbio_jax.inference.occlusion import covered, occlusion, overlay


class Corner:
    """Stands for a predictor that looks at one corner only: p = its brightness / 255."""

    def probabilities(self, images, *, calibrated=True):
        first = images[:, :4, :4].mean(axis=(1, 2, 3)) / 255
        return {"gender": np.stack([first, 1 - first], axis=1).astype(np.float32)}


def test_the_map_points_at_what_the_prediction_rests_on():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:4, :4] = 255
    drops = occlusion(Corner(), image, grid=8)["gender"]
    assert drops.shape == (8, 8)
    mean = round(255 * 16 / 1024) / 255
    np.testing.assert_allclose(drops[0, 0], 1 - mean, atol=1e-6)
    # Windows are two cells of four pixels wide: the neighbours reach half into the corner.
    assert drops[0, 1] > 0.4 and drops[1, 1] > 0.2
    np.testing.assert_array_equal(drops[2:], 0)
    np.testing.assert_array_equal(drops[:, 2:], 0)


def test_windows_cover_every_pixel_alike():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    changed = (covered(image, grid=7) != image).any(axis=3)
    assert changed.shape == (49, 30, 30)
    times = changed.sum(axis=0)
    assert times.min() >= 1 and times.max() <= 9
    sides = [(c.any(axis=1).sum(), c.any(axis=0).sum()) for c in changed]
    inner = [s for k, s in enumerate(sides) if k // 7 in range(1, 6) and k % 7 in range(1, 6)]
    assert {side for pair in inner for side in pair} <= {7, 8, 9}


def test_the_overlay_is_red_for_and_blue_against():
    image = np.full((16, 16, 3), 128, np.uint8)
    drops = np.zeros((8, 8), np.float32)
    drops[1, 1], drops[6, 6] = 0.5, -0.5
    shown = overlay(image, drops, side=160).astype(int)
    red, blue, plain = shown[30, 30], shown[130, 130], shown[30, 130]
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50 and np.ptp(plain) == 0
    faint = overlay(image, drops / 1000, side=160).astype(int)
    assert np.abs(faint - 128).max() <= 2  # half a thousandth is not evidence


def test_a_real_model_gives_one_map_per_task(bundle):
    from softbio_jax.inference.predictor import Predictor

    model = Predictor(bundle)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    drops = occlusion(model, image)
    assert set(drops) == {"age", "gender", "emotion"}
    assert all(np.isfinite(d).all() and d.any() for d in drops.values())
    assert model.buckets == (1, 64)
