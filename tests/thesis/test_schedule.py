"""The order of a study's trials: the search first, by validation alone, then the other seeds."""

import math

import pytest

from softbio_jax.errors import UserError
from softbio_jax.thesis.study.study import Trial
from tests.thesis.small_study import result, study_on


@pytest.fixture
def study(data_root):
    return study_on(data_root)


def trials(cell, *pairs):
    return [Trial(cell=cell, factor=factor, seed=seed) for factor, seed in pairs]


def test_a_search_comes_before_the_other_seeds(study):
    search = trials("lora", (0.5, 0), (1.0, 0)) + trials("lp", (0.5, 0), (1.0, 0))
    assert study.ready({}) == search
    losses = {search[0]: 2.0, search[1]: 1.0}
    done = {run: result(run, loss=loss) for run, loss in losses.items()}
    assert study.ready(done) == trials("lora", (1.0, 1)) + search[2:]


def test_the_last_run_leaves_nothing(study):
    done = {}
    while waiting := study.ready(done):
        done[waiting[0]] = result(waiting[0])
    assert len(done) == study.size() == 6
    assert [len(study.chosen(cell, done)) for cell in study.cells] == [2, 2]


def test_validation_chooses_whatever_the_tests_say(study):
    low, high = trials("lora", (0.5, 0), (1.0, 0))
    done = {low: result(low, loss=1.0, emotion=0.1), high: result(high, loss=1.1, emotion=0.9)}
    assert study.chosen_factor("lora", done) == 0.5
    for values in done.values():  # nothing but the loss is looked at
        for key in set(values) - {"validation_loss"}:
            del values[key]
    assert study.chosen_factor("lora", done) == 0.5


def test_nothing_is_chosen_before_the_search_is_done(study):
    (low,) = trials("lora", (0.5, 0))
    assert study.chosen_factor("lora", {low: result(low)}) is None
    assert study.chosen("lora", {low: result(low)}) == []


def test_the_lower_rate_wins_a_draw(study):
    done = {run: result(run) for run in trials("lora", (1.0, 0), (0.5, 0))}
    assert study.chosen_factor("lora", done) == 0.5


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_run_that_diverged_is_never_chosen(study, loss):
    low, high = trials("lora", (0.5, 0), (1.0, 0))
    done = {low: result(low, loss=loss), high: result(high, loss=5.0)}
    assert study.chosen_factor("lora", done) == 1.0
    done[high] = result(high, loss=loss)
    with pytest.raises(UserError, match=r"every learning rate of a cell diverged.*lora"):
        study.chosen_factor("lora", done)
