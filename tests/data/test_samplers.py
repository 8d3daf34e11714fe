import numpy as np
import pytest

from softbio_jax.data import pipeline, sampling
from softbio_jax.errors import UserError
from softbio_jax.thesis import protocol


def test_weighted_draws_follow_the_probabilities():
    probabilities = np.array([0.5, 0.0, 0.2, 0.3])
    sampler = sampling.Weighted(probabilities, epoch_size=40_000, seed=1)
    counts = np.bincount(sampler.epoch(0), minlength=4)
    deviation = np.sqrt(40_000 * probabilities * (1 - probabilities))
    assert counts[1] == 0
    assert (np.abs(counts - 40_000 * probabilities) <= 4 * deviation).all()
    assert (sampler.epoch(0) != sampler.epoch(1)).any()
    np.testing.assert_array_equal(sampler.epoch(3), sampler.epoch(3))


@pytest.mark.parametrize(
    "make",
    [
        *(sampling.make(name) for name in ("natural", "thesis", "balanced")),
        sampling.make("mixture", shares={"faces": 3, "emotions": 1}),
    ],
)
def test_every_sampler_gives_the_same_batches_on_two_processes(faces, emotions, make):
    def batches(index, count):
        return pipeline.train_batches(
            [faces, emotions],
            image_size=16,
            batch_size=8,
            seed=5,
            sampler=make,
            process_index=index,
            process_count=count,
        )

    whole, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for _ in range(5):
        expected, left, right = next(whole), next(first), next(second)
        for key in expected:
            np.testing.assert_array_equal(expected[key], np.concatenate([left[key], right[key]]))


def test_mixture_draws_the_shares(faces, emotions):
    sampler = sampling.mixture([faces, emotions], 0, shares={"faces": 1, "emotions": 4}, epoch_size=5000)
    share = (sampler.epoch(0) >= len(faces)).mean()
    assert share == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 5000))


def test_mixture_needs_a_share_of_every_set(faces, emotions):
    with pytest.raises(UserError, match=r"expected faces, emotions, found faces"):
        sampling.mixture([faces, emotions], 0, shares={"faces": 1})


def test_epoch_sizes(faces, emotions):
    datasets = [faces, emotions]
    assert sampling.natural(datasets, 0).epoch_size == 18
    assert sampling.balanced(datasets, 0).epoch_size == 18
    assert sampling.balanced(datasets, 0, epoch_size=7).epoch(2).shape == (7,)


def test_digest_names_the_stream(faces, emotions):
    digests = {
        protocol.sampler([faces, emotions], 0).digest(),
        protocol.sampler([faces, emotions], 1).digest(),
        protocol.sampler([faces, emotions], 0, epoch_size=9).digest(),
        sampling.balanced([faces, emotions], 0).digest(),
        sampling.natural([faces, emotions], 0).digest(),
    }
    assert len(digests) == 5
    assert protocol.sampler([faces, emotions], 0).digest() in digests


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "thesys"}, "unknown sampler: .*natural, balanced, mixture, thesis.*'thesys'"),
        ({"name": "thesis", "share": 0.3}, "sampler 'thesis': .*'share'"),
        ({"name": "mixture"}, "sampler 'mixture': .*'shares'"),
    ],
)
def test_mistakes_in_the_configuration(arguments, says):
    with pytest.raises(UserError, match=says):
        sampling.make(**arguments)
