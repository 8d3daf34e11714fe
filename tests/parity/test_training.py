"""Training against PyTorch, step by step, and proof that the comparison can fail.

The long comparisons, of every method in both types, are in test_training_long.py.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import torch

from tests.parity.training_mutations import MUTATIONS, updated_by

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
STEPS, STOP = 11, 6
BOUND = 1e-10


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def case():
    """DoRA on every projection that a run adapts, the rates of LoRA+, a rate of dropout that rounds."""
    from training_parity import case as cases

    plain = cases.of_method("lora_plus", variant="tiny-test", cut=False, steps=STEPS, batch=6)
    method = {"name": "dora", "lora": {"rank": 3, "alpha": 5.0, "dropout": 0.1}}
    config = dataclasses.replace(plain.config, method=method)
    return cases.of_config(config, name="tiny DoRA")


@pytest.fixture(scope="module")
def start(case):
    from training_parity import case as cases

    return cases.start(case)


@pytest.fixture(scope="module")
def stream(case):
    from training_parity import batches

    return batches.drawn(case, STEPS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Where the run in float64 saved its state after `STOP` steps."""
    return tmp_path_factory.mktemp("stopped")


@pytest.fixture(scope="module")
def side(case, start):
    from training_parity.ours import Ours

    return Ours(case, start, dtype="float64")


@pytest.fixture(scope="module")
def ours(side, stream, checkpoint):
    """Masks and record of every step of this package, in float64."""
    found = []
    for step, batch in enumerate(stream):
        if step == STOP:
            side.save(checkpoint)
        found.append((side.masks(batch), side.step(batch)))
    return found


def first_apart(case, start, stream, ours, *, switches=None, change=lambda twin: None):
    """Returns the first rung beyond the bound of a twin that was changed, and its ladder."""
    from training_parity.ladder import Ladder, first_beyond
    from training_parity.switches import OURS
    from training_parity.twin.training import Twin

    twin, ladder = Twin(case, start, dtype="float64", switches=switches or OURS), Ladder()
    change(twin)
    for batch, (masks, record) in zip(stream, ours, strict=True):
        rung = first_beyond(ladder.compare(record, twin.step(batch, masks)), BOUND)
        if rung is not None:
            return rung, ladder
    return None, ladder


def test_every_leaf_agrees_after_every_step(case, start, stream, ours):
    first, ladder = first_apart(case, start, stream, ours)
    assert first is None, str(first)
    assert ladder.zero == set()
    trained = {name for kind, name in ladder.worst if kind == "value"}
    assert trained == set(start.trained)
    moved = [path for path, leaf in ours[-1][1].value.items() if not np.allclose(leaf, start.trained[path])]
    assert set(moved) == trained  # the comparison is of a training that changes all of them


def test_adamw_by_its_formula_is_torchs(case, start, stream, ours):
    # Else the mutations of the formula would prove nothing.
    first, _ = first_apart(case, start, stream, ours, change=lambda twin: updated_by(twin))
    assert first is None, str(first)


@pytest.mark.parametrize("mistake", MUTATIONS, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_caught_where_it_is(case, start, stream, ours, monkeypatch, mistake):
    first, _ = first_apart(case, start, stream, ours, change=lambda twin: mistake(twin, monkeypatch))
    assert first is not None
    assert first.kind == MUTATIONS[mistake], str(first)


# Switch -> what is first to show that PyTorch does otherwise.
SWITCHES = {
    "exact_clipping": "first_moment",
    "common_count": "value",
    "absent_heads_held": "statistics",
    "rounded_dropout": "loss",
    "wide_rotary": "loss",
    "live_pooling": "loss",
    "single_output_update": "loss",
    "global_statistics": "loss",
}


def test_every_switch_is_tested():
    from training_parity.switches import Switches

    assert set(SWITCHES) == {field.name for field in dataclasses.fields(Switches)} - {"replicas"}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_does_what_pytorch_does(case, start, stream, ours, name):
    from training_parity.switches import Switches

    first, _ = first_apart(case, start, stream, ours, switches=Switches(**{name: False}))
    assert first is not None and first.kind == SWITCHES[name], str(first)


class TestResume:
    """Both stop after the same step, are restored from their files, and go on."""

    def test_the_bits_are_those_of_a_run_that_never_stopped(self, stream, side, ours, checkpoint):
        side.restore(checkpoint)  # it has gone on since
        for batch, (masks, expected) in zip(stream[STOP:], ours[STOP:], strict=True):
            for path, own in side.masks(batch).items():
                np.testing.assert_array_equal(own, masks[path])
            jax.tree.map(np.testing.assert_array_equal, side.step(batch), expected)

    def test_they_are_in_float32_as_well(self, case, start, stream, tmp_path):
        from training_parity.ours import Ours

        side, whole = Ours(case, start), []
        for step, batch in enumerate(stream):
            if step == STOP:
                side.save(tmp_path)
            whole.append(side.step(batch))
        side.restore(tmp_path)
        for batch, expected in zip(stream[STOP:], whole[STOP:], strict=True):
            jax.tree.map(np.testing.assert_array_equal, side.step(batch), expected)

    def test_the_twin_goes_on_within_the_same_bound(self, case, start, stream, ours, tmp_path):
        from training_parity.ladder import Ladder, first_beyond
        from training_parity.twin.training import Twin

        first, second = (Twin(case, start, dtype="float64") for _ in range(2))
        for batch, (masks, _) in zip(stream[:STOP], ours, strict=False):
            first.step(batch, masks)
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        ladder = Ladder()
        for batch, (masks, record) in zip(stream[STOP:], ours[STOP:], strict=True):
            rung = first_beyond(ladder.compare(record, second.step(batch, masks)), BOUND)
            assert rung is None, str(rung)


def test_batches_are_stored_as_they_were_drawn(case, stream, tmp_path):
    from training_parity import batches

    batches.save(tmp_path / "stream.npz", stream)
    for stored, drawn in zip(batches.load(tmp_path / "stream.npz", case, STEPS), stream, strict=True):
        assert stored.keys() == drawn.keys()
        for name, array in drawn.items():
            np.testing.assert_array_equal(stored[name], array)
    absent = [{task for task in case.config.tasks if not batch[f"mask/{task}"].any()} for batch in stream]
    assert set() in absent and any(len(tasks) == 1 for tasks in absent) and any(len(t) == 2 for t in absent)
