"""What the thesis adds to the registries: its sampler, averages, prompts, placement and files."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from softbio_jax.data.sampling import SAMPLERS
from softbio_jax.errors import UserError
from softbio_jax.runs import directory
from softbio_jax.runs.config import check, config_from
from softbio_jax.thesis import protocol
from tests.data.trees import make_emotions, make_fairface
from tests.runs.tiny import changed, config_on

# Six rows: two with age and gender, two with gender alone, two with gender and emotion.
LABELS = {
    "age": np.array([0, 1, -1, -1, -1, -1]),
    "gender": np.array([0, 0, 0, 1, 1, 1]),
    "emotion": np.array([-1, -1, -1, -1, 3, 3]),
}
ONCE = np.ones(6, np.int64)


def test_mean_rule_by_hand():
    # age: 2 / (9 * 1) each; gender: 6 / (2 * 3) = 1 each; emotion: 2 / (7 * 2) each.
    weights = np.array([(2 / 9 + 1) / 2, (2 / 9 + 1) / 2, 1, 1, (1 + 1 / 7) / 2, (1 + 1 / 7) / 2])
    np.testing.assert_allclose(protocol.mean_rule(LABELS, ONCE), weights / weights.sum())


def test_a_partial_label_counts_by_its_expectation():
    certain = {"age": (LABELS["age"][:, None] == np.arange(9)).astype(float)}
    np.testing.assert_allclose(protocol.mean_rule(LABELS, ONCE, certain), protocol.mean_rule(LABELS, ONCE))
    half = certain["age"].copy()
    half[2, :2] = 0.5  # one more row of class 0 or 1: 3 / (9 * 1.5) for each
    weights = np.array(
        [(2 / 9 + 1) / 2, (2 / 9 + 1) / 2, (2 / 9 + 1) / 2, 1, (1 + 1 / 7) / 2, (1 + 1 / 7) / 2]
    )
    found = protocol.mean_rule(LABELS, ONCE, {"age": half})
    np.testing.assert_allclose(found, weights / weights.sum())


def test_mean_rule_on_repeated_rows_is_that_of_the_longer_table():
    counts = np.array([1, 1, 1, 1, 3, 2])
    longer = {task: np.repeat(values, counts) for task, values in LABELS.items()}
    expected = protocol.mean_rule(longer, np.ones(9, np.int64))
    np.testing.assert_allclose(
        protocol.mean_rule(LABELS, counts), np.add.reduceat(expected, [0, 1, 2, 3, 4, 7])
    )


def test_repetitions_reach_the_share_of_the_thesis():
    emotion = np.full(168_362, -1)
    emotion[-9215:] = 2
    counts = protocol.repetitions({"emotion": emotion}, seed=0)
    assert counts.sum() == 168_362 + 70_597
    assert (counts[:-9215] == 1).all()
    assert counts.min() == 1
    assert counts[-9215:].sum() / counts.sum() == pytest.approx(0.334, abs=1e-5)
    np.testing.assert_array_equal(counts, protocol.repetitions({"emotion": emotion}, seed=0))
    assert (counts != protocol.repetitions({"emotion": emotion}, seed=1)).any()


@pytest.mark.parametrize("share", [0, 0.2])
def test_nothing_is_repeated_when_the_share_is_reached(share):
    np.testing.assert_array_equal(protocol.repetitions(LABELS, seed=0, emotion_share=share), ONCE)


def test_nothing_is_repeated_without_emotions():
    labels = {"gender": LABELS["gender"]}
    np.testing.assert_array_equal(protocol.repetitions(labels, seed=0), ONCE)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_not_a_share(share):
    with pytest.raises(UserError, match="not a share"):
        protocol.repetitions(LABELS, seed=0, emotion_share=share)


def test_the_sampler_repeats_emotion_rows(tmp_path):
    make_fairface(tmp_path / "raw_faces")
    make_emotions(tmp_path / "raw_emotions")
    prepare.prepare("fairface", source=str(tmp_path / "raw_faces"), out=tmp_path / "faces")
    prepare.prepare(
        "folder", source=str(tmp_path / "raw_emotions"), out=tmp_path / "emotions", task="emotion"
    )
    faces, emotions = (sources.open_prepared(tmp_path / name, "train") for name in ("faces", "emotions"))
    assert SAMPLERS["thesis"] is protocol.sampler
    # 6 of 18 rows have an emotion: int((.5 * 18 - 6) / .5) = 6 are added.
    assert protocol.sampler([faces, emotions], 0, emotion_share=0.5).epoch_size == 24


def test_the_earlier_name_of_a_placement_still_builds_the_same_method():
    config = LoRAConfig(rank=4, alpha=4.0)
    assert methods.mtlora(config, placement="thesis") == methods.mtlora(config)
    with pytest.raises(UserError, match=r"method\.placement: expected one of last_block, paper"):
        methods.mtlora(config, placement="last")


RULE = {"not_averaged": {"rafdb": ("gender",)}, "synthetic_labels": {"vggface2": ("age",)}}


def test_an_older_run_keeps_the_rule_that_it_was_judged_by():
    older = {"seed": 0, "data": {"root": "data", "test": ["vggface2/test", "rafdb/test", "faces/val"]}}
    assert protocol.upgrade(older)["data"] == older["data"] | RULE
    newer = {"data": older["data"] | {"not_averaged": {}, "synthetic_labels": {"faces": ["age"]}}}
    assert protocol.upgrade(newer) == newer


def test_a_run_directory_without_the_rule_is_read_and_resumed(data_root, tmp_path):
    now = changed(config_on(data_root), data__not_averaged={"synthetic_utkface": ("age",)})
    older = json.loads(json.dumps(dataclasses.asdict(config_from(now))))
    del older["data"]["not_averaged"], older["data"]["synthetic_labels"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    read = directory.read_config(tmp_path).data
    assert read.not_averaged == {"synthetic_raf_db": ("gender",)} and read.synthetic_labels == {}
    directory.check_workdir(config_from(now), tmp_path)  # no finished step depends on the rule


@pytest.mark.parametrize("field", ["not_averaged", "synthetic_labels"])
def test_a_rule_for_an_unknown_task_is_reported(data_root, field):
    values = changed(config_on(data_root), **{f"data__{field}": {"faces": ("gander",)}})
    with pytest.raises(UserError, match=rf"data\.{field}\.faces.*'gander'; fix: write 'gender'"):
        check(config_from(values))
