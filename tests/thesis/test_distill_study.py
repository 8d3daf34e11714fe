"""configs/distill_study.py: equal images for every cell, and arms that differ in the loss alone."""

import dataclasses
import json
import pathlib
import runpy

import pytest

from softbio_jax.errors import UserError
from softbio_jax.losses.distillation import DistillConfig
from softbio_jax.runs.config import config_from
from softbio_jax.thesis.study import kept, tables
from softbio_jax.thesis.study.collected import Collected
from softbio_jax.thesis.study.results import config_digest
from softbio_jax.thesis.study.study import Trial, study_from
from tests.structure import ROOT
from tests.thesis.small_study import result

GET_CONFIG = runpy.run_path(str(ROOT / "configs" / "distill_study.py"))["get_config"]


def study(arguments="teacher=runs/large"):
    return study_from(GET_CONFIG(arguments).to_dict() | {"pretrained": "weights.safetensors"})


def config_of(cell, arguments="teacher=runs/large"):
    trial = Trial(cell=cell, factor=1.0, seed=0)
    return study(arguments).config(trial, encoder="weights.safetensors", workdir=pathlib.Path("work"))


@pytest.mark.parametrize(
    ("cell", "twin"),
    [("b6_distilled", "b6_labels"), ("b6_feature", "b6_labels"), ("t16_distilled", "t16_labels")],
)
def test_the_arms_of_a_student_differ_in_the_loss_alone(cell, twin):
    one, two = config_of(cell), config_of(twin)
    assert one.distill.teacher == "runs/large" and two.distill == DistillConfig()
    assert dataclasses.replace(one, distill=two.distill) == two


def test_every_cell_draws_as_many_images():
    cells = study().cells.values()
    assert len({(c["train"]["steps"], c["train"]["batch_size"], str(c["data"])) for c in cells}) == 1
    first = next(iter(cells))
    assert (
        abs(first["train"]["steps"] * first["train"]["batch_size"] - 60_000 * 4 / 3)
        <= first["train"]["batch_size"]
    )


def test_only_the_student_of_pretrained_blocks_gets_the_weights():
    assert config_of("b6_labels").model.pretrained and not config_of("t16_distilled").model.pretrained
    assert config_of("b6_labels").model.blocks == 6


def test_a_teacher_is_needed_where_a_cell_has_one():
    assert set(study("cells=b6_labels+t16_labels").cells) == {"b6_labels", "t16_labels"}
    for arguments in ("", "cells=b6_labels+b6_feature"):
        with pytest.raises(ValueError, match="teacher=DIR is missing"):
            GET_CONFIG(arguments)
    with pytest.raises(ValueError, match="cells are"):
        GET_CONFIG("teacher=runs/large,cells=b7")


def test_a_record_is_of_a_teacher_wherever_its_folder_lies():
    here, there = (config_of("b6_distilled", f"teacher={folder}/large,digest=abc") for folder in ("a", "b"))
    assert config_digest(here) == config_digest(there)
    assert config_digest(here) != config_digest(config_of("b6_distilled", "teacher=a/large,digest=xyz"))


def test_what_is_off_does_not_count_in_a_record():
    """So that the records of studies from before have the digests that they had."""
    plain = config_of("t16_labels")
    assert config_digest(plain) != config_digest(
        dataclasses.replace(plain, distill=DistillConfig(weight=0.25))
    )
    values = dataclasses.asdict(plain)
    del values["distill"], values["model"]["blocks"]
    assert config_digest(config_from(values)) == config_digest(plain)


def test_a_student_keeps_a_share_of_its_teachers_accuracy(tmp_path):
    record = tmp_path / "teacher.json"
    taught = result(Trial(cell="lora_long", factor=1.0, seed=0), emotion=0.8, age=0.5, gender=0.9)
    record.write_text(json.dumps(taught))
    runs = [
        result(Trial(cell="b6_distilled", factor=1.0, seed=seed), emotion=emotion, age=0.45, gender=0.9)
        | {"chosen": True}
        for seed, emotion in enumerate((0.72, 0.76, 0.8))
    ]
    labels = tables.METHODS
    rows = kept.rows(Collected(values={"runs": runs, "cells": {}}), kept.teacher_of(record), labels)
    # t of 2 degrees of freedom is 4.303, the deviation 5 points.
    assert rows == [
        ["the teacher's accuracy, %", "80.0", "50.0", "90.0"],
        ["6 blocks, distilled", "95.0 ± 12.4", "90.0 ± 0.0", "100.0 ± 0.0"],
    ]


@pytest.mark.parametrize("content", [None, "{}", '{"averages": {"age": 0.5}}', '{"averages": 3}', "[1]"])
def test_a_teacher_needs_a_record(tmp_path, content):
    record = tmp_path / "teacher.json"
    if content is not None:
        record.write_text(content)
    with pytest.raises(UserError, match=r"no record of the teacher: .*teacher\.json"):
        kept.teacher_of(record)
