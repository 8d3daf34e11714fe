import csv
import json
import math

import jax
import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.data.decode import decode
from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot import evaluate
from softbio_jax.evaluation.zero_shot.classifier import classifier_from_params
from softbio_jax.evaluation.zero_shot.evaluate import evaluate_zero_shot
from softbio_jax.evaluation.zero_shot.prompts import load_prompts
from softbio_jax.interop import stacking
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.official import OFFICIAL, text_shapes, vision_shapes
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TEXT, VISION, ComputeConfig
from softbio_jax.models.flops import zero_shot_flops
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import unflatten
from softbio_jax.runs.data import open_tests
from softbio_jax.tasks import AGE

EXACT = ComputeConfig(matmul_precision="highest")
ENTRY = "synthetic_fairface/test"


@pytest.fixture(scope="module")
def state():
    return named_state(vision_shapes(VISION["tiny-test"]) | text_shapes(TEXT["tiny-test"]))


def save(state, path):
    save_arrays(path, state, metadata={})
    return str(path)


@pytest.mark.parametrize("variant", ["tiny-clip", "tiny-siglip2"])
def test_the_parameters_of_the_text_encoder_are_those_of_its_file(variant):
    shapes = text_shapes(TEXT[variant]).values()
    assert evaluate._text_parameters(variant) == sum(math.prod(shape) for shape in shapes)


def test_rows_are_those_of_the_towers_called_by_hand(state, data_root, tmp_path):
    checkpoint = save(state, tmp_path / "both.safetensors")
    sets = open_tests(str(data_root), [ENTRY])
    summary = evaluate_zero_shot(
        checkpoint,
        sets,
        variant="tiny-test",
        prompts=load_prompts("thesis"),
        out=tmp_path / "run",
        batch_size=8 * jax.device_count(),
        compute=EXACT,
    )

    pixels = np.stack([decode(sets[0][i], size=32, resize="squash") for i in range(5)])
    tower = load_pretrained(checkpoint, config=VISION["tiny-test"])
    params = unflatten(stacking.stack(OFFICIAL.forward(state)))
    classifier = classifier_from_params(
        params, variant="tiny-test", prompts=load_prompts("thesis"), compute=EXACT
    )
    with jax.default_matmul_precision("highest"):
        features = VisionEncoder(VISION["tiny-test"]).apply(
            {"params": tower}, pixels.astype(np.float32) / 127.5 - 1
        )
        expected = np.asarray(classifier.probabilities(features)["age"])
    with (tmp_path / "run/eval/predictions/synthetic_fairface.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [[float(row[f"age_{name}"]) for name in AGE.classes] for row in rows[:5]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(rows) == len(sets[0])
    with np.load(tmp_path / "run/eval/features/synthetic_fairface.npz") as kept:
        np.testing.assert_allclose(kept["features"][:5], features, atol=1e-4)
    assert summary["model"]["method"] == "zs"
    assert summary["model"]["trainable_params"] == 0
    total = sum(array.size for array in state.values())
    assert summary["model"]["total_params"] == total
    info = json.loads((tmp_path / "run/run.json").read_text())
    text = sum(state[name].size for name in text_shapes(TEXT["tiny-test"]))
    assert info["params"] == {"visual_encoder": total - text, "text_encoder": text, "total": total}
    prompts = sum(len(texts) for task in load_prompts("thesis").tasks.values() for texts in task)
    flops = zero_shot_flops(VISION["tiny-test"], TEXT["tiny-test"], prompts=prompts)
    assert info["gflops"] == flops.profiler / 1e9


def test_a_vision_tower_alone_is_refused(state, data_root, tmp_path):
    vision = {key: value for key, value in state.items() if key.startswith("visual.")}
    checkpoint = save(vision, tmp_path / "vision.safetensors")
    with pytest.raises(UserError, match="no text encoder"):
        evaluate_zero_shot(
            checkpoint,
            open_tests(str(data_root), [ENTRY]),
            variant="tiny-test",
            prompts=load_prompts("thesis"),
            out=tmp_path / "run",
            batch_size=8,
            compute=EXACT,
        )
    assert not (tmp_path / "run" / "eval").exists()


def test_the_tokenizer_that_is_named_is_the_one_that_is_read(state, data_root, tmp_path):
    with pytest.raises(UserError, match=r"unreadable tokenizer file.*own\.json"):
        evaluate_zero_shot(
            save(state, tmp_path / "both.safetensors"),
            open_tests(str(data_root), [ENTRY]),
            variant="tiny-test",
            prompts=load_prompts("thesis"),
            out=tmp_path / "run",
            batch_size=8 * jax.device_count(),
            compute=EXACT,
            tokenizer=tmp_path / "own.json",
        )
