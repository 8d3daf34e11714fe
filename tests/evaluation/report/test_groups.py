import dataclasses

import numpy as np

from softbio_jax.evaluation.metrics import fairness
from softbio_jax.evaluation.report import groups
from tests.evaluation.fixtures import hand_made, random_predictions


def test_maps_need_a_cell_that_is_large_enough():
    few, many = (
        fairness.audit(random_predictions("faces", n=n, tasks=("age", "gender")))["age"] for n in (60, 4000)
    )
    assert groups._maps("run", "faces", "age", few) == []
    names = [figure.name for figure in groups._maps("run", "faces", "age", many)]
    assert "groups_faces_age_race_gender_run" in names


def test_a_pair_is_named_only_where_groups_differ():
    """Four times the same accuracy, and one group that is far worse."""
    labels = np.zeros(500, np.int64)
    races = np.repeat(["A", "B", "C", "D", "E"], 100)
    for rates, named in (((90,) * 5, False), ((90, 90, 90, 90, 40), True)):
        right = np.concatenate([np.arange(100) < rate for rate in rates])
        faces = hand_made("faces", "gender", labels, np.eye(2)[np.where(right, 0, 1)])
        faces = dataclasses.replace(faces, audit={"race": races})
        (row,) = groups.gap_rows(
            fairness.adjusted({"faces": {"gender": {"race": fairness.audit(faces)["gender"]["race"]}}})
        )
        cells = dict(zip(groups.GAP_COLUMNS, row, strict=True))
        assert cells["n per group"] == "100 to 100" and cells["accuracy"] == f"{min(rates)}.0 to 90.0"
        surest = cells["surest difference (n): points"]
        assert surest.startswith("A (100) > E (100): +50.00 [") if named else surest == "none shown"
