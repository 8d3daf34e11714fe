"""Colab's images: our installation leaves their versions alone, and runs on them.

Kaggle's images have the same JAX (0.7.2). The environments are CPU ones: of libtpu, CUDA and torch they
have the names and versions, which is what pip decides by, and nothing to import.
"""

import functools
import json
import pathlib
import re
import shlex

import pytest

from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import save_arrays
from tests.inference import hub_server
from tests.platforms import environment, freeze

pytestmark = pytest.mark.platform
ROOT = environment.ROOT
HERE = pathlib.Path(__file__).parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
ENCODER = "timm/PE-Core-B-16"  # the default of zero_shot.ipynb
# What calls JAX, Flax, Optax, Orbax and Grain; the rest of the quick tests runs on the tested and on
# the newest versions only.
ON_JAX = """
    tests/adapters tests/checkpoints tests/losses tests/models tests/params tests/planning
    tests/runs tests/train tests/distributed/test_fsdp.py
    tests/data/test_augment.py tests/data/test_pipeline.py tests/data/test_sources.py
    tests/evaluation/test_evaluate_run.py tests/evaluation/test_zero_shot.py
    tests/inference/test_exports.py tests/inference/test_predictor.py tests/interop/test_formats.py
"""
# The GPU image has the TPU image's JAX and Flax, but older Pillow, protobuf, Rich and Arrow.
ON_THE_REST = """
    tests/data/test_bad_images.py tests/data/test_decode.py tests/data/test_parquet.py
    tests/data/test_prepare.py tests/evaluation/test_plots.py tests/inference/test_exports.py
    tests/test_errors.py tests/train/test_metrics_log.py tests/train/test_progress.py
"""
EXECUTED = {"colab-2026-08-tpu": [path.stem for path in NOTEBOOKS], "colab-2026-08-gpu": ["finetune"]}
SELECTED = {"colab-2026-08-tpu": ON_JAX, "colab-2026-08-gpu": ON_THE_REST}


@functools.cache
def made(name):
    """Makes the environment of a platform, which all tests of this module share."""
    platform = environment.Environment(ROOT / f".venv-{name}", freeze.read(HERE / f"{name}.txt"))
    platform.make()
    assert platform.changed() == {}  # it is the platform, before anything of ours
    return platform


@pytest.fixture(params=sorted(SELECTED))
def platform(request):
    return made(request.param)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return environment.repository(tmp_path_factory.mktemp("repository"))


def installation(notebook):
    """The arguments of the notebook's own %pip."""
    (line,) = re.findall(r'"\s*%pip (.*?)\\n"', notebook.read_text())
    return shlex.split(json.loads(f'"{line}"'))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_installing_changes_no_version(platform, checkout, notebook):
    arguments = [part.replace("/content/softbio_jax", str(checkout)) for part in installation(notebook)]
    platform.pip(*arguments)
    assert "softbio-jax" in platform.listed()
    assert platform.changed() == {}


@pytest.mark.parametrize(
    ("platform", "notebook"),
    [(name, notebook) for name, notebooks in EXECUTED.items() for notebook in notebooks],
    indirect=["platform"],
)
def test_notebook_runs_as_shipped(platform, checkout, notebook, tmp_path):
    notebook = ROOT / "colab" / f"{notebook}.ipynb"
    settings, variables = {"REPOSITORY": str(checkout)}, {}
    if notebook.stem == "parity":
        # timm needs torch, which takes gigabytes; the long tests of parity compare with it.
        settings["LIVE"] = "--variant=PE-Core-T16-384 --reference=goldens"
    with hub_server.serve(ENCODER) as server:
        if notebook.stem == "zero_shot":
            server.store["files"]["open_clip_model.safetensors"] = encoder(tmp_path)
            variables = hub_server.environment(server, tmp_path / "hub")
        command = [platform.python, HERE / "execute.py", notebook, tmp_path, json.dumps(settings)]
        printed = environment.run(*command, **variables)
    assert platform.changed() == {}
    if notebook.stem == "parity":
        assert printed.count("every stage agrees") == 3
    else:
        assert "averages: gender" in printed and "mounted" in printed
        assert list((tmp_path / "drive" / "MyDrive").rglob("metrics.json"))


def encoder(folder):
    """open_clip's file of the encoder, with weights of our own."""
    official = named_state(formats.official_shapes("PE-Core-B16-224", text=True))
    format_ = formats.FORMATS["open_clip"]
    path = folder / "model.safetensors"
    save_arrays(path, format_.closed(format_.from_official(official)), metadata={})
    return path.read_bytes()


@pytest.mark.parametrize(("platform", "selected"), SELECTED.items(), indirect=["platform"])
def test_quick_tests_pass(platform, selected):
    platform.pip("install", "--editable", f"{ROOT}[test]")
    assert platform.changed() == {}
    selected = selected.split()
    options = ("-n", "2", "--dist", "loadfile", "--quiet")
    printed = environment.run(platform.python, "-m", "pytest", *options, *selected)
    passed = int(re.search(r"(\d+) passed", printed)[1])
    assert passed > 5 * len(selected)  # a number far below it: most were not collected
