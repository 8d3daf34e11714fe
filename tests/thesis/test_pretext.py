"""The pretext: whitened gradient histograms and a class, neither of which is kept."""

import dataclasses
import io

import numpy as np
import pytest
import safetensors

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.models.config import vision_config
from softbio_jax.params import flatten
from softbio_jax.thesis.study import pretext
from softbio_jax.thesis.study.pretext import pretraining_rows
from tests.thesis.small_study import study_on


@pytest.fixture
def study(data_root):
    return study_on(data_root)


def test_components_are_white_and_led_by_the_widest():
    rng = np.random.default_rng(0)
    scales = np.array([0.1, 5.0, 1.0, 3.0])
    features = (rng.standard_normal((500, 4)) * scales + 7).astype(np.float32)
    found = pretext.whitened_components(features, 2)
    assert found.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert np.cov(found.T, bias=True) == pytest.approx(np.eye(2), abs=1e-4)
    for column, source in zip(found.T, (1, 3), strict=True):
        assert abs(np.corrcoef(column, features[:, source])[0, 1]) > 0.98


def test_a_histogram_sees_edges_and_not_brightness():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 120, (1, 32, 32, 3), dtype=np.uint8)
    plain, brighter, mirrored = (
        pretext.gradient_histograms(x) for x in (image, image + 100, image[:, :, ::-1])
    )
    assert plain.shape == (1, 3 * 3 * 4 * 9)
    assert brighter == pytest.approx(plain, abs=0.02)
    assert np.abs(mirrored - plain).max() > 0.1


def test_every_image_comes_with_its_mirror_image(study):
    dataset = pretraining_rows(study.pretrain, study.data_root)
    images, targets, classes = pretext.examples(dataset, study.pretrain, size=32)
    n = len(dataset)
    assert images.shape == (2 * n, 32, 32, 3) and targets.shape == (2 * n, 8)
    assert np.array_equal(images[n:, :, ::-1], images[:n])
    assert np.array_equal(classes[:n], classes[n:]) and classes.max() == n - 1


def test_the_saved_encoder_has_no_head(study, tmp_path):
    path, lines = tmp_path / "encoder.safetensors", io.StringIO()
    about = pretext.make_encoder(study.pretrain, study.data_root, path, console=Console(out=lines))
    with safetensors.safe_open(path, "numpy") as file:
        assert {key.split("/")[0] for key in file.keys()} == {"encoder", "pool", "proj"}
        assert file.metadata()["variant"] == "tiny-test"
        assert float(file.metadata()["loss"]) == pytest.approx(about["loss"], abs=1e-4)
    loaded = load_pretrained(path, config=vision_config("tiny-test"))
    assert all(np.isfinite(leaf).all() for leaf in flatten(loaded).values())
    assert about["images"] == 20 and np.isfinite(about["loss"])
    assert "3/3" in lines.getvalue() and "loss" in lines.getvalue()


def test_a_column_that_is_missing_is_reported(study, tmp_path):
    settings = dataclasses.replace(study.pretrain, column="race")
    with pytest.raises(UserError, match=r"no such column.*expected race"):
        pretext.make_encoder(settings, study.data_root, tmp_path / "t", console=QUIET)
    assert list(tmp_path.iterdir()) == []
