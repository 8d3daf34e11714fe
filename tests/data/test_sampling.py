import pickle

import numpy as np

from softbio_jax.data import sampling


def test_natural_takes_every_example_once_an_epoch():
    sampler = sampling.Natural(size=50, seed=3)
    first, second = sampler.epoch(0), sampler.epoch(1)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    np.testing.assert_array_equal(np.sort(second), np.arange(50))
    assert (first != second).any()
    assert (first != sampling.Natural(size=50, seed=4).epoch(0)).any()


def test_streams_are_the_same_on_every_machine():
    # Written down once: a change of these numbers breaks the resumption of every training.
    assert sampling.Natural(size=10, seed=0).epoch(0).tolist() == [8, 0, 3, 7, 6, 4, 1, 5, 2, 9]


def test_stream_crosses_epochs_and_repeats():
    sampler = sampling.Natural(size=7, seed=1)
    stream = sampling.Stream(sampler)
    expected = np.concatenate([sampler.epoch(0), sampler.epoch(1), sampler.epoch(2)])
    np.testing.assert_array_equal(stream[np.arange(21)], expected)
    np.testing.assert_array_equal(stream[np.array([20, 0, 8])], expected[[20, 0, 8]])
    copy = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(copy[np.arange(21)], expected)


def test_digest_names_the_stream():
    same = sampling.Natural(size=7, seed=1).digest()
    assert same == sampling.Natural(size=7, seed=1).digest()
    assert same != sampling.Natural(size=7, seed=2).digest()
    assert same != sampling.Natural(size=8, seed=1).digest()
