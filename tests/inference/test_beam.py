"""The predictor inside of a Beam pipeline: what it yields for a bundle of images."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from softbio_jax.errors import UserError
from softbio_jax.inference.bulk import beam
from softbio_jax.inference.predictor import Predictor

INSTALLED = importlib.util.find_spec("apache_beam") is not None


@pytest.fixture(scope="module")
def images():
    rng, found = np.random.default_rng(0), []
    for i in range(5):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(out, "png")
        found.append((i, out.getvalue()))
    return found


def test_images_come_out_in_their_order_with_their_keys(bundle, images):
    model = Predictor(bundle)
    found = list(beam._predicted(model, images, faces=False, margin=None))
    expected = model.predict([data for _, data in images])
    assert found == [(key, [prediction]) for (key, _), prediction in zip(images, expected, strict=True)]
    assert list(beam._predicted(model, [], faces=False, margin=None)) == []


def test_an_unreadable_image_does_not_stop_the_others(bundle, images):
    model = Predictor(bundle)
    broken = [images[0], ("bad", b"no image"), images[1]]
    found = dict(beam._predicted(model, broken, faces=False, margin=None))
    assert list(found) == [0, "bad", 1]
    assert isinstance(found["bad"], str) and [len(found[key]) for key in (0, 1)] == [1, 1]


@pytest.mark.skipif(INSTALLED, reason="apache-beam is installed")
def test_without_beam_the_extra_is_named():
    with pytest.raises(UserError, match=r"softbio-jax\[beam\]"):
        beam.do_fn("model")


@pytest.mark.skipif(not INSTALLED, reason="apache-beam is not installed (the extra beam)")
def test_in_a_pipeline(workdir, images):
    import apache_beam
    from apache_beam.testing.test_pipeline import TestPipeline
    from apache_beam.testing.util import assert_that, equal_to

    elements = [*images, ("bad", b"no image")]
    with TestPipeline() as pipeline:
        function = apache_beam.ParDo(beam.do_fn(str(workdir))).with_outputs("unreadable", main="found")
        out = pipeline | apache_beam.Create(elements) | function
        classes = Predictor(beam.predictor.open_bundle(workdir)).predict([data for _, data in images])
        keyed = [(key, dict(p.classes)) for (key, _), p in zip(images, classes, strict=True)]
        found = out.found | apache_beam.Map(lambda pair: (pair[0], dict(pair[1][0].classes)))
        assert_that(found, equal_to(keyed), label="found")
        assert_that(out.unreadable | apache_beam.Map(lambda pair: pair[0]), equal_to(["bad"]), label="bad")
