"""What is checked on each of Colab's and Kaggle's images: installing leaves their versions alone, and works.

The environments are CPU ones: of libtpu, CUDA and torch they have the names and versions, which is what
pip decides by, and nothing to import. Each image has a test file, so that its tests share one process and
one environment (--dist loadfile), beside those of the others.
"""

import json
import pathlib
import re
import shlex

from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import save_arrays
from tests.inference import hub_server
from tests.platforms import environment, freeze

ROOT = environment.ROOT
HERE = pathlib.Path(__file__).parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "colab").glob("*.ipynb"))
ENCODER = "timm/PE-Core-B-16"  # the default of zero_shot.ipynb
# What calls JAX, Flax, Optax and Orbax, where versions differ. Not here, though it calls them: what the
# notebooks execute (preparation, planning, evaluation, reports), cached features, and what is about files.
# All of it runs on the tested and on the newest versions (.ci/run).
ON_JAX = """
    tests/adapters tests/checkpoints tests/losses tests/models tests/runs tests/distributed/test_fsdp.py
    tests/data/test_augment.py tests/data/test_pipeline.py tests/evaluation/test_zero_shot.py
    tests/inference/test_predictor.py tests/planning/test_compiled_cost.py tests/planning/test_fit.py
    tests/train/test_float16.py tests/train/test_loop.py tests/train/test_sweep.py
"""
# The GPU image has the TPU image's JAX and Flax, but older Pillow, protobuf, Rich and Arrow.
ON_THE_REST = """
    tests/data/test_bad_images.py tests/data/test_decode.py tests/data/test_parquet.py
    tests/data/test_prepare.py tests/data/test_sources.py tests/evaluation/test_plots.py
    tests/inference/test_exports.py tests/interop/test_formats.py tests/test_errors.py
    tests/train/test_metrics_log.py tests/train/test_progress.py
"""


def made(name):
    """Makes the environment of a platform, which the tests of its file share."""
    base = environment.PYTHONS[name.partition("-")[0]]
    platform = environment.Environment(ROOT / f".venv-{name}", base, freeze.read(HERE / f"{name}.txt"))
    platform.make()
    assert platform.changed() == {}  # it is the platform, before anything of ours
    return platform


def installation(notebook):
    """The arguments of the notebook's own %pip."""
    (line,) = re.findall(r'"\s*%pip (.*?)\\n"', notebook.read_text())
    return shlex.split(json.loads(f'"{line}"'))


def installing_changes_no_version(platform, checkout, notebook):
    notebook = ROOT / "colab" / f"{notebook}.ipynb"
    arguments = [part.replace("{REPOSITORY}", checkout.as_uri()) for part in installation(notebook)]
    assert any("git+file://" in part for part in arguments)
    platform.pip(*arguments)
    assert "softbio-jax" in platform.listed()
    assert platform.changed() == {}


def notebook_runs_as_shipped(platform, checkout, notebook, tmp_path):
    notebook = ROOT / "colab" / f"{notebook}.ipynb"
    platform.pip("uninstall", "--quiet", "--yes", "softbio-jax")  # the notebook installs it
    on_kaggle = platform.folder.name.startswith(".venv-kaggle")
    settings, variables = {"REPOSITORY": checkout.as_uri()}, (kaggle if on_kaggle else colab)(tmp_path)
    if notebook.stem == "parity":
        # timm needs torch, which takes gigabytes; the long tests of parity compare with it.
        settings["LIVE"] = "--variant=PE-Core-T16-384 --reference=goldens"
    with hub_server.serve(ENCODER) as server:
        if notebook.stem == "zero_shot":
            server.store["files"]["open_clip_model.safetensors"] = encoder(tmp_path)
            variables |= hub_server.environment(server, tmp_path / "hub")
        command = [platform.python, HERE / "execute.py", notebook, tmp_path, json.dumps(settings)]
        printed = environment.run(*command, **variables)
    assert platform.changed() == {}
    if notebook.stem == "parity":
        assert printed.count("every stage agrees") == 3
    else:
        assert "averages: gender" in printed
        kept = tmp_path / ("working" if on_kaggle else "drive/MyDrive") / "softbio_jax"
        assert list(kept.rglob("metrics.json"))
        assert ("mounted" in printed) == (not on_kaggle)


def colab(folder):
    """The variables of a session: here those that stand for its places."""
    return {"SOFTBIO_DRIVE": str(folder / "drive")}


def kaggle(folder):
    (folder / "tmp").mkdir()  # prepared data are in the temporary folder
    places = {"KAGGLE_WORKING_DIR": str(folder / "working"), "TMPDIR": str(folder / "tmp")}
    return {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", **places}


def encoder(folder):
    """open_clip's file of the encoder, with weights of our own."""
    official = named_state(formats.official_shapes("PE-Core-B16-224", text=True))
    format_ = formats.FORMATS["open_clip"]
    path = folder / "model.safetensors"
    save_arrays(path, format_.closed(format_.from_official(official)), metadata={})
    return path.read_bytes()


def quick_tests_pass(platform, checkout, selected):
    # The newest onnx, of the extra that no notebook installs, would replace the GPU image's protobuf.
    platform.pip("install", "--constraint", platform.pins, f"{checkout}[test]")
    assert platform.changed() == {}
    selected = selected.split()
    options = ("-n", "2", "--dist", "loadfile", "--quiet")
    printed = environment.run(platform.python, "-m", "pytest", *options, *selected)
    passed = int(re.search(r"(\d+) passed", printed)[1])
    assert passed > 5 * len(selected)  # a number far below it: most were not collected
