import re

import pytest

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
