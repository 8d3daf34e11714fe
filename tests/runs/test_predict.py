import jax
import numpy as np
import pytest

from softbio_jax.console import Console
from softbio_jax.runs import parallel
from softbio_jax.runs.session import Outputs, collect


def test_rows_land_where_their_example_says_and_padding_nowhere():
    logits = np.arange(20, dtype=np.float32).reshape(10, 2)
    labels = np.array([0, 1, -1, 0, 1, 0, 1, -1, 0, 1], np.int32)
    order = [7, 2, 9, 0, 1, 3, 8, 4, 5, 6, -1, -1, -1, -1, -1, -1]

    def batches():
        for start in (0, 8):
            rows = np.array(order[start : start + 8])
            yield {"example": rows, "x": logits[rows], "labels/age": labels[rows]}

    outputs = collect(
        lambda batch: {
            "logits/age": batch["x"],
            "labels/age": batch["labels/age"],
            "example": batch["example"],
        },
        batches(),
        size=10,
        tasks=("age",),
        mesh=parallel.make_mesh(),
    )
    np.testing.assert_array_equal(outputs.logits["age"], logits)
    np.testing.assert_array_equal(outputs.labels["age"], labels)


@pytest.mark.parametrize("wanted", [None, [0, 2, 7, 9]])
def test_features_of_the_wanted_rows_alone_are_kept(wanted):
    order = np.array([7, 2, 9, 0, 1, 3, 8, 4, 5, 6, -1, -1, -1, -1, -1, -1])

    def forward(batch):
        feature = batch["example"][:, None] * np.array([1.0, 10.0], np.float32)
        if wanted is None:  # not even fetched: nothing but an array can be
            feature = object()
        return {"example": batch["example"], "feature": feature}

    outputs = collect(
        forward,
        ({"example": order[start : start + 8]} for start in (0, 8)),
        size=10,
        tasks=(),
        mesh=parallel.make_mesh(),
        feature_rows=None if wanted is None else np.array(wanted),
    )
    if wanted is None:
        assert outputs.features is None
    else:
        np.testing.assert_array_equal(outputs.features, [[row, 10 * row] for row in wanted])


def test_losses_are_those_of_the_labelled_examples():
    logits = np.array([[100.0, -1000.0], [0.0, 0.0], [5.0, 1.0]], np.float32)
    outputs = Outputs(
        logits={"gender": logits, "age": logits},
        labels={"gender": np.array([0, 1, -1]), "age": np.full(3, -1)},
    )
    values = outputs.losses()
    assert values == {"gender/loss": pytest.approx(np.log(2) / 2), "gender/accuracy": pytest.approx(0.5)}
    expected = -jax.nn.log_softmax(logits)[np.arange(2), [0, 1]].mean()
    assert values["gender/loss"] == pytest.approx(float(expected))


def test_a_pass_can_be_ended_between_batches():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(
            lambda batch: {},
            iter([{}]),
            size=1,
            tasks=(),
            mesh=parallel.make_mesh(),
            console=Console(check=stop),
        )
