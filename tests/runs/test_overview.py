import re
import types

import pytest

from softbio_jax.models.attention import choice
from softbio_jax.params import flatten
from softbio_jax.runs import build
from softbio_jax.runs import config as config_lib
from tests.runs.tiny import changed, config_on


def test_it_has_every_trained_leaf_and_no_other(tmp_path):
    run = build.build(config_on(tmp_path))
    found = re.findall(r"^\| (\S+/\S+) +\| \((.*?)\)", build.overview(run), re.MULTILINE)
    state, _ = build.abstract_start(run)
    expected = {path: leaf.shape for path, leaf in flatten(state.trainable).items()}
    assert {p: tuple(map(int, re.findall(r"\d+", shape))) for p, shape in found} == expected


@pytest.mark.parametrize(
    ("method", "pretrained", "random"),
    [("lp", "", True), ("lp", "tower.safetensors", False), ("full", "", False)],
)
def test_frozen_blocks_that_no_file_gives_are_noticed(tmp_path, method, pretrained, random):
    config = config_on(tmp_path) | {"method": {"name": method}}
    config["model"] = config["model"] | {"pretrained": pretrained}
    rates = {"heads": 1e-3, "pooling": 1e-3, "blocks": 1e-4, "log_var": 1e-3}
    config["optimizer"] = config["optimizer"] | {"rates": rates}
    assert build.build(config).has_random_frozen_blocks() is random


@pytest.mark.parametrize(
    ("named", "devices", "row"),
    [
        ("auto", "float16", ["float16", "(auto,", "dynamic", "loss", "scaling)"]),
        ("auto", "bfloat16", ["bfloat16", "(auto)"]),
        ("float32", "float16", ["float32"]),
    ],
)
def test_the_type_is_printed_as_it_was_resolved(tmp_path, monkeypatch, named, devices, row):
    monkeypatch.setattr(config_lib, "fastest_dtype", lambda _: devices)
    run = build.build(changed(config_on(tmp_path), compute__dtype=named))
    (line,) = [line for line in build.describe(run).splitlines() if line.startswith("compute dtype")]
    assert line.split()[2:] == row
    assert run.model.compute.dtype == run.config.compute.dtype == row[0]


@pytest.mark.parametrize(
    ("named", "why", "row"),
    [
        ("auto", "", ["xla", "(auto)"]),
        (
            "auto",
            "pallas was refused: old libtpu",
            ["xla", "(auto;", "pallas", "was", "refused:", "old", "libtpu)"],
        ),
        ("xla", "", ["xla"]),
    ],
)
def test_the_attention_is_printed_with_the_reason_of_a_fallback(tmp_path, monkeypatch, named, why, row):
    monkeypatch.setattr(choice, "choose", lambda *_, **__: choice.Choice("xla", why))
    run = build.build(changed(config_on(tmp_path), compute__attention=named))
    (line,) = [line for line in build.describe(run).splitlines() if line.startswith("attention")]
    assert line.split()[1:] == row
    assert (run.config.compute.attention, run.model.compute.attention) == (named, "xla")


def test_attention_is_chosen_for_the_devices_that_are_compiled_for(tmp_path, monkeypatch):
    """As where a CPU machine plans for TPUs."""
    monkeypatch.setattr(choice, "_refused", lambda *_: "")
    config = changed(config_on(tmp_path), compute__attention="auto", compute__dtype="bfloat16")
    tpu = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite", process_index=0)
    assert build.build(config, devices=[tpu]).model.compute.attention == "pallas"
    assert build.build(config).model.compute.attention == "bmm"
