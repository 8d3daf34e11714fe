from softbio_jax.evaluation.metrics import fairness
from softbio_jax.evaluation.report import groups
from tests.evaluation.fixtures import random_predictions


def test_maps_need_a_cell_that_is_large_enough():
    few, many = (
        fairness.audit(random_predictions("faces", n=n, tasks=("age", "gender")))["age"] for n in (60, 4000)
    )
    assert groups._maps("run", "faces", "age", few) == []
    names = [figure.name for figure in groups._maps("run", "faces", "age", many)]
    assert "groups_faces_age_race_gender_run" in names
