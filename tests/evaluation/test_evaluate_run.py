import jax
import numpy as np

from softbio_jax.data.augment import normalize
from softbio_jax.data.decode import decode
from softbio_jax.evaluation.evaluate import evaluate
from softbio_jax.params import combine
from softbio_jax.runs import build
from softbio_jax.runs.session import Session
from tests.runs.tiny import run_of


def test_an_evaluation_keeps_the_features_that_the_heads_read(config, tmp_path):
    run, data = run_of(config)
    session = Session(run)
    evaluate(session, data.test, tmp_path)
    dataset = data.test[0]
    with np.load(tmp_path / "eval" / "features" / f"{dataset.name}.npz") as kept:
        rows, found = kept["rows"], kept["features"]
    assert rows.tolist() == list(range(len(dataset)))

    state, frozen = build.start(run)
    images = np.stack([decode(dataset[i], size=run.image_size) for i in range(len(dataset))])
    with jax.default_matmul_precision(run.config.compute.matmul_precision):
        expected = run.model.apply(
            {"params": combine(state.trainable, frozen)}, normalize(images), method="features"
        )["age"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Asked for by nobody, they are not there.
    assert session.predict(dataset).features is None
