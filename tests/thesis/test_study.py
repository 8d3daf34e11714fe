"""configs/small_reproduction.py at both scales, and what a study makes of its cells."""

import pathlib

import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import build
from softbio_jax.thesis.study.study import Trial, study_from
from tests.runs.tiny import changed
from tests.thesis.small_study import get_config, values_on

SMALL, THESIS = get_config(), get_config("scale=thesis")
METHODS = ["lp", "ft", "lora", "lora_plus", "dora", "mtlora", "mtlora_task"]


@pytest.mark.parametrize("cell", SMALL["cells"])
@pytest.mark.parametrize("scale", ["small", "thesis"])
def test_every_cell_builds_from_shapes_alone(scale, cell):
    values = SMALL if scale == "small" else THESIS | {"pretrained": "PE-Core-L14-336.pt"}
    study = study_from(values)
    trial = Trial(cell=cell, factor=study.factors[-1], seed=study.seeds[-1])
    run = build.build(study.config(trial, encoder="encoder", workdir=pathlib.Path("work")))
    trained = set(run.groups.values()) - {"frozen"}
    assert trained <= set(run.config.optimizer.rates)
    assert ("log_var" in trained) == (len(run.config.tasks) > 1 and cell != "lora_fixed")
    blocks = "encoder/tail/attn/qkv/kernel"
    if cell.startswith("ft"):
        shapes = build.abstract_params(run.config, run.model)
        whole = shapes["encoder"]["trunk"]["ln_1"]["scale"].shape[0]
        last = shapes["encoder"]["tail"]["ln_1"]["scale"].shape[0]
        assert run.groups[blocks] == "blocks" and last / (whole + last) == pytest.approx(1 / 6)


def test_both_scales_have_the_same_cells_and_the_methods_come_first():
    assert list(SMALL["cells"]) == list(THESIS["cells"])
    assert list(SMALL["cells"])[:7] == METHODS


def test_the_small_study_is_given_every_cell_the_same_budget():
    cells = SMALL["cells"].values()
    assert len({(c["train"]["steps"], c["train"]["batch_size"]) for c in cells}) == 1
    assert study_from(SMALL).size() == len(SMALL["cells"]) * 5


def test_some_cells_are_a_study_too():
    some = get_config("cells=ft+lora,steps=7")
    assert list(some["cells"]) == ["ft", "lora"] and some["untrained"] == ()
    assert some["cells"]["ft"] == SMALL["cells"]["ft"] | {
        key: get_config("steps=7")["cells"]["ft"][key] for key in ("train", "optimizer")
    }
    assert study_from(some).size() == 10


def test_cells_differ_from_lora_in_what_their_name_says():
    lora, cells = SMALL["cells"]["lora"], SMALL["cells"]

    def differing(name):
        return {key for key in lora if lora[key] != cells[name][key]}

    assert differing("lora_fixed") == {"balancing"}
    assert differing("lora_low_rank") == differing("lora_high_rank") == {"method"}
    assert differing("lora_natural") == {"data"} and differing("lora_plus") == {"method", "optimizer"}
    ranks = [cells[name]["method"]["lora"]["rank"] for name in ("lora_low_rank", "lora", "lora_high_rank")]
    assert ranks == [2, 8, 32]
    wide = THESIS["cells"]["lora_high_rank"]["method"]["lora"]
    assert (wide["rank"], wide["alpha"]) == (256, 256.0)
    assert [cells[name]["method"]["base_input"] for name in ("mtlora", "mtlora_task")] == ["shared", "task"]


def test_single_task_cells_see_the_sets_of_their_task(data_root):
    cells = SMALL["cells"]
    assert cells["lora_emotion"]["data"]["train"] == ("fer/train",)
    assert cells["ft_age"]["data"]["test"] == ("fairface/val",)
    assert cells["lp_gender"]["data"]["sampler"]["emotion_share"] == 0


def test_race_is_a_pretext_and_no_task_of_any_cell():
    assert SMALL["pretrain"]["column"] == "race"
    for cell in SMALL["cells"].values():
        assert set(cell["tasks"]) <= {"age", "gender", "emotion"}


def test_a_run_has_its_seed_its_encoder_and_its_rates(data_root, tmp_path):
    study = study_from(values_on(data_root) | {"untrained": ("lp",)})
    lora = study.config(Trial(cell="lora", factor=0.5, seed=7), encoder="T", workdir=tmp_path)
    base = study.cells["lora"]["optimizer"]["rates"]
    assert lora.seed == 7 and lora.model.pretrained == "T"
    assert lora.optimizer.rates["heads"] == 0.5 * base["heads"]
    assert lora.optimizer.rates["log_var"] == base["log_var"]
    probe = study.config(Trial(cell="lp", factor=1.0, seed=0), encoder="T", workdir=tmp_path)
    assert probe.model.pretrained == "" and probe.data.root == str(data_root)
    assert probe.train.cache_dir.startswith(str(tmp_path)) and lora.train.cache_dir == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 0)}, "config.seeds.*all different"),
        ({"factors": ()}, "config.factors.*none"),
        ({"factors": (0.0, 1.0)}, "config.factors.*above 0"),
        ({"untrained": ("lpp",)}, "config.untrained.*lpp"),
        ({"pretrained": "a.pt"}, "config.pretrained.*found both"),
        ({"pretrain__fraction": 1.0}, "config.pretrain.fraction"),
        ({"pretrain__colunm": "race"}, "unknown config key.*config.pretrain.colunm"),
        ({"cells__lora__train__step": 3}, "cell 'lora'.*train.step"),
        ({"sedes": (1,)}, "unknown config key.*sedes"),
    ],
)
def test_a_mistake_is_reported_in_one_line(data_root, changes, message):
    with pytest.raises(UserError, match=message) as error:
        study_from(changed(values_on(data_root), **changes))
    assert "\n" not in str(error.value)


def test_a_study_without_weights_is_reported():
    with pytest.raises(UserError, match=r"config.pretrained.*neither.*--config.pretrained=FILE"):
        study_from(THESIS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("scale=large", "scale is one of"),
        ("stps=3", "a key of steps"),
        ("scale=thesis,steps=3", "a key of batch_size"),
        ("steps=0", "steps is an integer"),
        ("steps", "expected key=value"),
        ("cells=lora+lra", "cells are lp, .*'lra'"),
    ],
)
def test_a_wrong_argument_of_the_config_is_reported(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_config(arguments)
