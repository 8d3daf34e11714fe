"""Averages, and that the thesis' printed ones follow from its per-set accuracies, where they do."""

import math

import pytest

from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.metrics.intervals import averaged_sets, excluded_by, excluded_tasks, task_averages
from softbio_jax.thesis import protocol
from tests.evaluation.fixtures import random_predictions

RULE = excluded_tasks(protocol.SYNTHETIC_LABELS, protocol.NOT_AVERAGED)

ZERO_SHOT = {
    "utkface": {"age": 48.62, "gender": 96.63},
    "fairface": {"age": 46.11, "gender": 97.60},
    "raf_db": {"emotion": 66.57},
    "vggface2": {"age": 42.01, "gender": 95.78},
}


def truncated(value: float) -> float:
    """The thesis cuts to two decimals instead of rounding."""
    return math.floor(value * 100 + 1e-9) / 100


def test_zero_shot_task_averages_of_table_4_2():
    averages = task_averages(ZERO_SHOT, RULE)
    assert truncated(averages["age"]) == 47.36  # without VGGFace2
    assert truncated(averages["gender"]) == 96.67  # with VGGFace2
    assert averages["emotion"] == 66.57


def test_zero_shot_global_of_table_4_2_contradicts_its_own_footnote():
    rule = task_averages(ZERO_SHOT, RULE)
    assert round(rule["overall"], 2) == 70.20
    # The printed 69.61 averages VGGFace2's synthetic ages in.
    with_synthetic = task_averages(ZERO_SHOT, {})
    assert with_synthetic["overall"] == pytest.approx(69.61, abs=0.005)


# Table 4.12's per-set figures; VGGFace2's gender is implied by the printed average (4.11).
PER_SET = {
    "mtlora": ({"age": (64.11, 63.96), "gender": (97.62, 96.93)}, 97.49, 90.06),
    "lora": ({"age": (63.73, 63.34), "gender": (97.57, 96.90)}, 97.49, 91.21),
}


@pytest.mark.parametrize(
    ("row", "age", "overall", "consistent"), [("lora", 63.53, 84.07, True), ("mtlora", 64.03, 83.88, False)]
)
def test_averages_of_table_4_11_from_table_4_12(row, age, overall, consistent):
    figures, gender, emotion = PER_SET[row]
    sets = {
        "fairface": {"age": figures["age"][0], "gender": figures["gender"][0]},
        "utkface": {"age": figures["age"][1], "gender": figures["gender"][1]},
        "vggface2": {"age": 0.0, "gender": 3 * gender - sum(figures["gender"])},
        "raf_db": {"emotion": emotion},
    }
    averages = task_averages(sets, RULE)
    assert truncated(averages["age"]) == age
    assert averages["gender"] == pytest.approx(gender)
    # 83.88 is printed where the columns give 83.86.
    assert (abs(averages["overall"] - overall) < 0.01) is consistent
    assert averages["overall"] == pytest.approx(overall, abs=0.025)


@pytest.mark.parametrize(
    ("emotion", "age", "gender", "printed", "consistent"),
    [
        (88.43, 63.00, 97.41, 82.94, True),  # FT_4
        (84.91, 61.28, 97.54, 78.76, False),  # LP: the columns give 81.24
    ],
)
def test_overall_of_table_4_11_from_its_columns(emotion, age, gender, printed, consistent):
    sets = {"a": {"age": age, "gender": gender}, "b": {"emotion": emotion}}
    overall = task_averages(sets, {})["overall"]
    assert (truncated(overall) == printed) is consistent


def test_a_task_without_test_set_has_no_average_and_no_part_in_the_overall():
    sets = {"fairface": {"age": 0.5}, "vggface2": {"age": 0.1, "gender": 0.9}}
    averages = task_averages(sets, {"vggface2": ("age",)})
    assert averages == {"age": 0.5, "gender": 0.9, "overall": pytest.approx(0.7)}
    assert averaged_sets(sets, {"vggface2": ("age",)}) == {"age": ["fairface"], "gender": ["vggface2"]}
    assert task_averages({}, {}) == {}


def test_gender_of_raf_db_and_celeba_hq_is_in_no_average_of_the_thesis():
    accuracies = {
        "utkface": {"gender": 96.0},
        "fairface": {"gender": 97.0},
        "vggface2": {"gender": 98.0},
        "rafdb": {"gender": 10.0, "emotion": 90.0},
        "celeba_hq": {"gender": 20.0},
    }
    found = task_averages(accuracies, RULE)
    assert found == {"gender": 97.0, "emotion": 90.0, "overall": 93.5}


def test_no_test_set_is_excluded_by_its_name():
    accuracies = {"utkface": {"gender": 0.9}, "celeba_hq": {"gender": 0.7}, "vggface2": {"age": 0.4}}
    found = task_averages(accuracies, {})
    assert found == {"age": 0.4, "gender": pytest.approx(0.8), "overall": pytest.approx(0.6)}


def test_what_an_evaluation_excluded_is_in_its_metrics():
    accuracies = {"vggface2": {"age": 0.4, "gender": 0.9}, "rafdb": {"gender": 0.8, "emotion": 0.7}}
    rule = {"vggface2": ["age"], "rafdb": ["gender"]}
    summary = {"datasets": accuracies, "averaged_sets": averaged_sets(accuracies, rule)}
    assert excluded_by(summary) == rule


def test_a_set_of_your_own_called_celeba_hq_has_its_gender_average():
    faces = random_predictions("celeba_hq", tasks=("gender",))
    model = {"variant": "tiny", "method": "lp", "trainable_params": 1, "total_params": 2}
    summary = evaluate.summarise([faces], model=model)
    assert summary["averages"]["gender"] == summary["datasets"]["celeba_hq"]["gender"]["accuracy"]
    assert summary["averaged_sets"] == {"gender": ["celeba_hq"]} and summary["average_intervals"]
    ruled = evaluate.summarise([faces], model=model, not_averaged={"celeba_hq": ("gender",)})
    assert ruled["averages"] == ruled["averaged_sets"] == ruled["average_intervals"] == {}
    assert ruled["datasets"] == summary["datasets"]
