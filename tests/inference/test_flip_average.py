"""Predictions averaged over an image and its mirror image: wherever a model predicts, and in exports."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from softbio_jax.data.decode import decode
from softbio_jax.data.sources import open_prepared
from softbio_jax.errors import UserError
from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.evaluate import evaluate_run
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.export import litert, stablehlo
from softbio_jax.inference.predictor import Predictor, open_bundle
from tests.compiling import quick_jit
from tests.inference.test_bundle import bundle_of, pixels, with_age_head


def averaged(bundle):
    return dataclasses.replace(bundle, model=bundle.model.clone(flip_average=True))


def run(bundle, images):
    return quick_jit(bundle.answers)(bundle.variables, images)


def mean_of_two(bundle, images):
    (first, years), (second, mirrored) = run(bundle, images), run(bundle, images[:, :, ::-1].copy())
    logits = {task: (first[task] + second[task]) / 2 for task in first}
    assert all(np.abs(first[task] - second[task]).max() > 1e-2 for task in first), "nothing to average"
    return logits, None if years is None else (years + mirrored) / 2


def agree(found, wanted, atol=1e-5):
    assert found.keys() == wanted.keys()
    for task in wanted:
        np.testing.assert_allclose(found[task], wanted[task], atol=atol, err_msg=task)


@pytest.mark.parametrize("name", ["lora", "mtlora"])
def test_logits_are_the_mean_of_both(name):
    bundle, _ = bundle_of(name)
    images = pixels(bundle)
    agree(run(averaged(bundle), images)[0], mean_of_two(bundle, images)[0])


def test_the_expected_age_of_a_head_of_years_too():
    bundle = with_age_head(bundle_of("lora")[0], "years")
    images = pixels(bundle)
    logits, years = run(averaged(bundle), images)
    wanted = mean_of_two(bundle, images)
    agree(logits, wanted[0])
    np.testing.assert_allclose(years, wanted[1], atol=1e-4)


def test_on_several_devices_as_on_one():
    bundle, _ = bundle_of("lora")
    images = pixels(bundle, 37)
    predictor = Predictor(averaged(bundle), max_batch=2)
    assert len(predictor.devices) == 8
    agree(predictor.logits(images), mean_of_two(bundle, images)[0])


def test_saved_models_keep_it_and_older_versions_do_not_read_them(tmp_path):
    bundle, _ = bundle_of("lora")
    images = pixels(bundle)
    bundle_lib.save(bundle, tmp_path / "once")
    bundle_lib.save(averaged(bundle), tmp_path / "twice")
    agree(Predictor(open_bundle(tmp_path / "twice")).logits(images), mean_of_two(bundle, images)[0])
    once, twice = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("once", "twice"))
    assert (once["schema"], twice["schema"]) == (1, 2) and "flip_average" not in once
    assert bundle_lib.label(bundle) != bundle_lib.label(averaged(bundle))
    (tmp_path / "twice" / "config.json").write_text(json.dumps(twice | {"flip_average": "yes"}))
    with pytest.raises(UserError, match=r"config\.json flip_average: expected"):
        open_bundle(tmp_path / "twice")


def test_a_run_is_evaluated_and_opened_with_it(workdir, data_root, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["flip_average"] = True
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    evaluate_run(tmp_path / "run")
    once, twice = (
        predictions_csv.load(folder / "eval" / "predictions" / "synthetic_utkface.csv").probabilities["age"]
        for folder in (workdir, tmp_path / "run")
    )
    assert np.abs(once - twice).max() > 1e-4
    bundle = open_bundle(tmp_path / "run")
    assert bundle.model.flip_average
    dataset = open_prepared(data_root / "synthetic_utkface", "test")
    images = np.stack([decode(dataset[i], size=32) for i in range(len(dataset))])
    np.testing.assert_allclose(jax.nn.softmax(run(bundle, images)[0]["age"]), twice, atol=1e-5)


def test_stablehlo_and_onnx_have_it(tmp_path):
    onnx = pytest.importorskip("softbio_jax.inference.export.onnx", reason="the extra onnx")
    bundle, _ = bundle_of("lora")
    images = pixels(bundle, 5)
    stablehlo.write(tmp_path / "stablehlo", averaged(bundle))
    onnx.write(tmp_path / "onnx", averaged(bundle))
    wanted, _ = mean_of_two(bundle, images)
    agree(stablehlo.load(tmp_path / "stablehlo")(images), wanted)
    agree(onnx.load(tmp_path / "onnx" / "model.onnx")(images), wanted)
    cost = json.loads((tmp_path / "onnx" / "config.json").read_text())["cost"]
    assert cost["gflops"] == pytest.approx(2 * stablehlo.cost(bundle)["gflops"])


@pytest.mark.app
def test_litert_has_it(tmp_path):
    bundle, _ = bundle_of("lora")
    images = pixels(bundle, 3)
    litert.write(tmp_path / "litert", averaged(bundle))
    agree(litert.load(tmp_path / "litert" / "model.tflite")(images), mean_of_two(bundle, images)[0])
