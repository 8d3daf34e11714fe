"""scripts/public_models: what is sent to a public model, what its answers become, and the tables of them."""

import os
import pathlib
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags

from softbio_jax.data import decode, sources
from softbio_jax.errors import UserError
from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.tasks import AGE, EMOTION
from tests.inference.test_bundle import bundle_of
from tests.structure import ROOT

# Answers with the image's height, width and first pixel, so that the order of bytes is seen.
WORKER = """
import sys
sys.path.insert(0, {folder!r})
from worker import serve

def answer(image):
    if image.shape[0] == 5:
        sys.exit("no more")
    height, width, _ = image.shape
    return {{"age": float(height), "width": width, "pixel": image[0, 0].tolist()}}

serve(answer)
"""


@pytest.fixture(scope="module")
def scripts():
    """The names of both scripts, whose flags are gone."""
    before, found = set(flags.FLAGS), []
    for name in ("predict", "table"):
        found.append(runpy.run_path(str(ROOT / "scripts" / "public_models" / f"{name}.py")))
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
    return found


@pytest.fixture
def worker(scripts, tmp_path):
    """Starts a model whose answers are those of WORKER."""
    predict, _ = scripts
    path = tmp_path / "fake.py"
    path.write_text(WORKER.format(folder=str(ROOT / "scripts" / "public_models")))
    predict["MODELS"]["fake"] = ((sys.executable, str(path)), ("age", "gender"))
    yield lambda images: list(predict["_answers"]("fake", pathlib.Path("/"), iter(images), len(images)))
    del predict["MODELS"]["fake"]


def test_a_model_gets_every_image_and_answers_in_order(worker):
    images = [np.arange(3 * h * w, dtype=np.uint8).reshape(h, w, 3) + h for h, w in ((2, 7), (4, 3), (1, 1))]
    for image, answer in zip(images, worker(images), strict=True):
        assert (answer["age"], answer["width"]) == image.shape[:2]
        assert answer["pixel"] == image[0, 0].tolist()


def test_a_model_that_ends_is_one_line(worker):
    images = [np.zeros((h, 2, 3), np.uint8) for h in (4, 5, 6)]
    with pytest.raises(UserError, match=r"the model ended: image 2 of 3: found fake"):
        worker(images)


@pytest.mark.parametrize(
    ("years", "group"), [(0, "0-2"), (2.4, "0-2"), (2.5, "3-9"), (69.4, "60-69"), (101, "70+")]
)
def test_years_are_all_of_one_group(scripts, years, group):
    vector = scripts[0]["_vector"]("age", years)
    assert vector.sum() == 1 and AGE.classes[vector.argmax()] == group


def test_classes_are_put_in_order(scripts):
    shares = np.arange(1, 8) / 28
    named = dict(zip(EMOTION.classes, shares.tolist(), strict=True))
    shuffled = {name: named[name] for name in sorted(named)}
    np.testing.assert_allclose(scripts[0]["_vector"]("emotion", shuffled), shares)


def test_variants_keep_or_change_what_they_say(scripts):
    from PIL import Image

    variants = scripts[0]["VARIANTS"]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    made = {name: np.asarray(change(Image.fromarray(pixels))) for name, change in variants.items()}
    np.testing.assert_array_equal(made["whole"], pixels)
    np.testing.assert_array_equal(made["bgr"], pixels[..., ::-1])
    np.testing.assert_array_equal(made["crop80"], pixels[4:36, 4:36])
    assert made["crop60"].shape == (24, 24, 3) and made["small"].shape == made["blur"].shape == (40, 40, 3)
    assert (made["grey"][..., 0] == made["grey"][..., 2]).all()


def _of_emotion(labels, best):
    probabilities = np.full((len(labels), 7), 0.01)
    for row, (first, second) in enumerate(best):
        probabilities[row, first], probabilities[row, second] = 0.6, 0.35
    probabilities /= probabilities.sum(1, keepdims=True)
    ids = [f"i{n}" for n in range(len(labels))]
    return Predictions(
        name="fer_test", ids=ids, labels={"emotion": labels}, probabilities={"emotion": probabilities}
    )


def test_a_class_that_the_set_lacks_is_left_out(scripts):
    _, table = scripts
    neutral = EMOTION.classes.index("neutral")
    given = _of_emotion([0, 1, 2, 3], [(neutral, 0), (1, 0), (neutral, 3), (2, 3)])
    row = table["_row"]("m", given)["tasks"]["emotion"]
    assert row["accuracy"][0] == 0.25  # of four, one is first
    assert row["accuracy_without_neutral"][0] == 0.5  # and another once neutral is left out
    assert (
        "accuracy_without_neutral"
        not in table["_row"]("m", _of_emotion([neutral, 1], [(neutral, 0), (1, 0)]))["tasks"]["emotion"]
    )


def test_runs_are_paired_with_models_of_the_same_images(scripts):
    _, table = scripts
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 200)
    right = _of_emotion(labels, [(y, (y + 1) % 6) for y in labels])
    wrong = _of_emotion(labels, [((y + 1) % 6, y) if row % 4 else (y, 6) for row, y in enumerate(labels)])
    (pair,) = table["_pairs"]({("public", "fer_test"): wrong}, {("ours", "fer_test"): right})
    assert pair["difference"][0] == pytest.approx(0.75) and pair["first_only"] == 150
    (alone,) = table["adjusted"]([pair])
    assert alone["p_adjusted"] == pair["p_value"] < 1e-6
    assert table["_pairs"]({("public", "other"): wrong}, {("ours", "fer_test"): right}) == []


def test_what_is_added_replaces_its_own_rows_alone(scripts):
    _, table = scripts

    def pair(run, p):
        return {"run": run, "model": "public", "task": "age", "p_value": p, "p_adjusted": p}

    def found(run, models, p):
        rows = [{"model": name, "set": "fer", "tasks": {"n": run}} for name in models]
        variants = [{"model": run, "variant": "bgr", "set": "fer", "task": "age", "difference": [p]}]
        return {"models": rows, "variants": variants, "pairs": [pair(run, p)]}

    joined = table["joined"](found("first", ("public", "first"), 0.02), found("second", ("public",), 0.03))
    assert [(row["model"], row["tasks"]["n"]) for row in joined["models"]] == [
        ("public", "second"),
        ("first", "first"),
    ]
    assert [row["model"] for row in joined["variants"]] == ["first", "second"]
    # Holm: the smaller of two p-values counts twice, and none is below it.
    assert [row["p_adjusted"] for row in table["adjusted"](joined["pairs"])] == pytest.approx([0.04, 0.04])


def test_a_model_of_this_package_predicts_changed_images(data_root, tmp_path):
    bundle, _ = bundle_of("lora")
    saved = bundle_lib.save(bundle, tmp_path / "saved")
    command = [
        sys.executable,
        "scripts/public_models/predict.py",
        f"--data={data_root / 'synthetic_fairface'}",
        "--split=test",
        "--variant=bgr",
        f"--out={tmp_path / 'x.csv'}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*more):
        return subprocess.run(
            [*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    done = run(f"--run={saved}")
    assert done.returncode == 0, done.stderr
    found = predictions_csv.load(tmp_path / "x.csv")
    dataset = sources.open_prepared(data_root / "synthetic_fairface", "test")
    images = np.stack(
        [decode.decode(dataset[i], size=bundle.image_size)[..., ::-1] for i in range(len(dataset))]
    )
    assert found.tasks() == ["age", "gender"]
    for task in found.tasks():
        wanted = jax.nn.softmax(bundle.forward(bundle.variables, images)[task])  # without its temperature
        np.testing.assert_allclose(found.probabilities[task], wanted, atol=1e-5)
    neither = run()
    assert neither.returncode == 1 and "no model, or two: flags" in neither.stderr
