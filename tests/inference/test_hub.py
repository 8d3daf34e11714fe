"""Push and load through huggingface_hub itself, against a server on this machine."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import hub
from softbio_jax.inference.predictor import Predictor
from tests.inference import hub_server
from tests.inference.hub_server import COMMIT

pytest.importorskip("huggingface_hub")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server():
    with hub_server.serve() as server:
        yield server


def python(code, server, home, **environment):
    """Runs code in a process of its own: the library reads its environment when imported."""
    own = hub_server.environment(server, home) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


PREDICT = """
import json, sys, numpy as np, softbio_jax
images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
model = softbio_jax.load("me/model{revision}")
print(json.dumps([p.probabilities for p in model.predict(images)]))
"""


@pytest.mark.long
def test_what_is_pushed_is_loaded_back_and_kept(server, bundle, workdir, tmp_path):
    code = f"from softbio_jax.inference import hub; print(hub.push({str(workdir)!r}, 'me/model'))"
    done = python(code, server, tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"/me/model/commit/{COMMIT}")
    files = server.store["files"]
    assert sorted(files) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "reference.jpg",
        "reference.json",
    ]
    assert server.store["created"]["name"] == "model"
    assert "private" in json.dumps(server.store["created"])
    text = files["README.md"].decode()
    assert 'softbio_jax.load("me/model")' in text and "## Limits" in text
    assert "synthetic_utkface" in text  # the run's metrics
    assert str(workdir.parent) not in text and "/tmp" not in text

    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    wanted = [p.probabilities for p in Predictor(bundle).predict(images)]
    for revision, extra in (("", {}), (f"@{COMMIT}", {"HF_HUB_OFFLINE": "1"})):
        done = python(PREDICT.format(revision=revision), server, tmp_path / "two", **extra)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == wanted
    kept = [path.name for path in (tmp_path / "two").rglob("*") if path.is_file()]
    assert not any(name.endswith((".pt", ".bin", ".pkl", ".py")) for name in kept)


def test_what_the_hub_refuses_is_one_line(server, tmp_path):
    for code, extra, says in (
        ("import softbio_jax as s; s.load('no/body')", {}, "cannot fetch from the hub: no/body"),
        ("import softbio_jax as s; s.load('no/body')", {"HF_HUB_OFFLINE": "1"}, "cannot fetch"),
    ):
        done = python(code, server, tmp_path, **extra)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("softbio_jax.errors.UserError") and says in last


def test_ids_and_paths_are_distinguished(tmp_path, bundle):
    from softbio_jax.inference.predictor import open_bundle

    assert hub.is_id("me/model") and hub.is_id("me/model@v1.0")
    for text in ("model", "/me/model", "../model", "a/b/c", "./b"):
        assert not hub.is_id(text), text
    with pytest.raises(UserError, match=r"no such model: softbio_jax/mistyped"):
        open_bundle("softbio_jax/mistyped")  # a slip in the name of a folder asks no server
    with pytest.raises(UserError, match="not a hub id"):
        hub.push(bundle, "model")


def test_the_card_of_a_model_without_a_run_has_no_metrics(bundle):
    text = hub.card_of_bundle(bundle, repo_id="me/model")
    listed = re.sub(" ‡", "", text)  # the fixture has classes without training images
    assert "None came with the weights" in text and "surprise, fear, disgust" in listed
    assert bundle_lib.to_json(bundle)["tasks"].keys() == {"age", "gender", "emotion"}


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("train.py --workdir=/home/me/runs/x --config=configs/a.py", None),
        ("/home/me/weights.pt", "weights.pt"),
        ("~/me/weights.pt", "weights.pt"),
        ("fairface/train", "fairface/train"),
        ("", ""),
    ],
)
def test_folders_of_this_machine_are_removed(text, bare):
    assert hub._bare(text) == (bare if bare is not None else "train.py --workdir=x --config=configs/a.py")
