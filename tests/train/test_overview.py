import re

from softbio_jax.params.paths import flatten
from softbio_jax.train import build
from tests.train.tiny import config_on


def test_it_has_every_trained_leaf_and_no_other(tmp_path):
    run = build.parts(build.config_from(config_on(tmp_path)))
    found = re.findall(r"^\| (\S+/\S+) +\| \((.*?)\)", build.overview(run), re.MULTILINE)
    state, _ = build.abstract_start(run)
    expected = {path: leaf.shape for path, leaf in flatten(state.trainable).items()}
    assert {p: tuple(map(int, re.findall(r"\d+", shape))) for p, shape in found} == expected
