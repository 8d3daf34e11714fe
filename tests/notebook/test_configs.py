"""Configurations of the package: the same run as on the command line, from any folder."""

import pytest

from softbio_jax import command, notebook
from softbio_jax.errors import UserError
from softbio_jax.runs import build

NAME = "configs/finetune.py:method=dora,tasks=emotion,steps=20,train=mine/train,test=mine/test"


def test_a_configuration_is_found_from_any_folder_with_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = notebook.config(NAME, model__pretrained="assets/tiny_demo.safetensors", data__root="d")
    assert config.method["name"] == "dora" and config.train.steps == 20
    assert config.data.root == "d" and config.data.test == ("mine/test",)
    assert config.model.pretrained == str(command.SHIPPED / "assets" / "tiny_demo.safetensors")
    assert build.build(config).config.tasks == ("emotion",)


def test_a_file_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "tiny_demo.safetensors").touch()
    config = notebook.config(NAME, model__pretrained="assets/tiny_demo.safetensors")
    assert config.model.pretrained == "assets/tiny_demo.safetensors"


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"no such configuration: configs/fine\.py: expected .*finetune\.py"):
        notebook.config("configs/fine.py")
    with pytest.raises(UserError, match=r"config\.train.*stepps"):
        notebook.config(NAME, train__stepps=3)
    with pytest.raises(UserError, match=r"bad arguments: configs/finetune\.py.*'methode=lora'"):
        notebook.config("configs/finetune.py:methode=lora")
