"""configs/foundation_study.py: equal labels for every cell, and what its rows train."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import build
from softbio_jax.thesis.study import results
from softbio_jax.thesis.study.study import Trial, study_from
from tests.structure import ROOT

WEIGHTS = "vit_small_patch14_dinov2.safetensors"
TEACHER = ROOT / "docs" / "foundation_study" / "lora_long-x1-seed0.json"
# The studies with records: the page that shows them, the arguments of the configuration, flags of the report.
STUDIES = {
    "foundation_study": ("foundation_study", "", ()),
    "partial_labels": ("partial_labels", "", ()),
    "distill_study": (
        "distillation",
        "teacher=x1-seed0,digest=cde6401aec99",
        (f"--teacher_record={TEACHER}",),
    ),
}
GET_CONFIG = runpy.run_path(str(ROOT / "configs" / "foundation_study.py"))["get_config"]
STUDY = study_from(GET_CONFIG().to_dict() | {"pretrained": "weights.safetensors"})


def labels_seen(cell):
    """Returns task -> the labels that a run of a cell draws in expectation."""
    values = STUDY.cells[cell]
    shares = values["data"]["sampler"]["shares"]
    images = values["train"]["steps"] * values["train"]["batch_size"]
    drawn = {name: images * share / sum(shares.values()) for name, share in shares.items()}
    return {task: drawn["fer" if task == "emotion" else "fairface"] for task in values["tasks"]}


@pytest.mark.parametrize("cell", STUDY.cells)
def test_every_cell_sees_as_many_labels_of_a_task(cell):
    batch = STUDY.cells[cell]["train"]["batch_size"]
    times = 3 if cell == "lora_long" else 1
    for task, count in labels_seen(cell).items():
        assert count == pytest.approx(times * labels_seen("lora")[task], abs=times * batch)


@pytest.mark.parametrize("cell", ["lp", "ap", "ft", "lora", "mtlora_task", "full", "lora_emotion"])
def test_a_cell_trains_what_its_name_says(cell):
    config = STUDY.config(
        Trial(cell=cell, factor=1.0, seed=0, share=0.25), encoder="", workdir=pathlib.Path()
    )
    trained = set(build.build(config).groups.values())
    expected = {
        "lp": set(),
        "ap": {"pooling"},
        "ft": {"blocks"},
        "lora": {"adapter_a", "adapter_b"},
        "mtlora_task": {"adapter_a", "adapter_b"},
        "full": {"blocks"},
        "lora_emotion": {"adapter_a", "adapter_b"},
    }[cell]
    assert expected == trained & {"adapter_a", "adapter_b", "blocks", "pooling"}
    assert config.train.steps == round(STUDY.cells[cell]["train"]["steps"] / 4)
    assert ("log_var" in trained) == (len(config.tasks) > 1)


def test_a_share_of_the_steps_leaves_what_is_off_alone():
    values = GET_CONFIG("cells=lora").to_dict() | {"pretrained": "weights.safetensors"}
    values["cells"]["lora"]["train"]["eval_every"] = values["cells"]["lora"]["optimizer"]["warmup_steps"] = 0
    trial = Trial(cell="lora", factor=1.0, seed=0, share=0.25)
    config = study_from(values).config(trial, encoder="", workdir=pathlib.Path())
    assert config.train.eval_every == config.optimizer.warmup_steps == 0


def test_the_longer_run_takes_the_factor_of_the_short_one():
    done = {t: {"validation_loss": abs(t.factor - 3.0)} for t in STUDY.search("lora")}
    assert STUDY.search("lora_long") == []
    assert STUDY.chosen_factor("lora_long", {}) is None
    chosen = STUDY.chosen("lora_long", done)
    assert [(t.factor, t.seed, t.share) for t in chosen] == [(3.0, seed, 1.0) for seed in (0, 1, 2)]
    assert STUDY.size() == 18 * 3 + 19 * 3 + 3 * 2
    assert set(chosen) <= set(STUDY.ready(done))


def test_a_factor_of_an_unsearched_cell_is_refused():
    values = GET_CONFIG("cells=lora+lora_long").to_dict() | {"pretrained": "weights.safetensors"}
    with pytest.raises(UserError, match=r"factor_of\.lora_long: expected one of lora, found lora_long"):
        study_from(values | {"factor_of": {"lora_long": "lora_long"}})


def test_what_may_be_compared_by_seed_has_the_same_seeds():
    assert STUDY.seeds_of("lora") == STUDY.seeds_of("lp") == STUDY.seeds_of("mtlora") == (0, 1, 2, 3, 4)
    assert STUDY.seeds_of("ft") == (0, 1, 2)


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_records_are_of_this_configuration(name):
    records = ROOT / "docs" / name
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](STUDIES[name][1])
    study = study_from(config.to_dict() | {"pretrained": WEIGHTS})
    assert len(results.read_records(study, records, encoder=WEIGHTS)) == len(list(records.glob("*.json"))) > 0


@pytest.mark.parametrize("wrong", ["images=many", "cells=lora+lorra", "steps=3"])
def test_a_wrong_argument_is_reported(wrong):
    with pytest.raises(ValueError, match="found"):
        GET_CONFIG(wrong)


def _reported(folder, *flags):
    script = str(ROOT / "scripts" / "small_reproduction.py")
    return subprocess.run(
        [sys.executable, script, f"--report={folder}", *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", STUDIES)
def test_the_tables_of_the_page_are_those_of_the_records(tmp_path, name):
    page, (source, arguments, flags) = tmp_path / "page.md", STUDIES[name]
    text = (ROOT / "docs" / f"{source}.md").read_text()
    page.write_text(text)
    study = [f"--config={ROOT / 'configs' / f'{name}.py'}:{arguments}", "--config.pretrained=" + WEIGHTS]
    done = _reported(ROOT / "docs" / name, *study, *flags, f"--page={page}")
    assert done.returncode == 0, done.stderr
    assert page.read_text() == text


def test_records_need_their_study(tmp_path):
    study = [f"--config={ROOT / 'configs' / 'foundation_study.py'}", "--config.pretrained=" + WEIGHTS]
    for folder, flags, says in (
        (ROOT / "docs" / "foundation_study", [], "records without their study: --config"),
        (tmp_path, study, "no record"),
    ):
        done = _reported(folder, *flags)
        assert done.returncode == 1 and done.stderr.startswith(f"error: {says}"), done.stderr
        assert done.stderr.count("\n") == 1
