import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.data.decode import decode
from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot.classifier import (
    ZeroShotClassifier,
    classifier_from_params,
    zero_shot_classifier,
)
from softbio_jax.evaluation.zero_shot.prompts import Prompts, load_prompts
from softbio_jax.interop import formats, stacking
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.official import OFFICIAL, text_shapes, vision_shapes
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TEXT, VISION, ComputeConfig
from softbio_jax.models.text import CLIP
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import unflatten
from softbio_jax.tasks import EMOTION, TASKS
from tests.compiling import quick_jit
from tests.evaluation.fixtures import gemma_file

HERE = pathlib.Path(__file__).parent
GENDER_ONLY = Prompts(
    name="two", tasks={"gender": (("a photo of a male person",), ("a photo of a female person",))}
)


def reference():
    """The module that made the golden: its pictures are drawn again, not stored."""
    path = HERE.parent / "parity" / "zero_shot_reference.py"
    spec = importlib.util.spec_from_file_location("zero_shot_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_state(variant):
    return named_state(vision_shapes(VISION[variant]) | text_shapes(TEXT[variant]))


def our_params(state):
    return unflatten(stacking.stack(OFFICIAL.forward(state)))


def embed(params, variant, pictures):
    size = VISION[variant].image_size
    pixels = np.stack([decode(data, size=size, resize="squash") for data in pictures])
    images = pixels.astype(np.float32) / 127.5 - 1
    with jax.default_matmul_precision("highest"):
        return VisionEncoder(VISION[variant]).apply({"params": params}, images)


@pytest.fixture(scope="module")
def small():
    return official_state("tiny-test")


@pytest.fixture
def checkpoint(small, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_arrays(path, small, metadata={})
    return path


@pytest.fixture(scope="module")
def made():
    module = reference()
    params = our_params(official_state(module.VARIANT))
    features = embed(params, module.VARIANT, module.drawn_images())
    return module, params, features, np.load(module.GOLDEN)


class TestAgainstTheReference:
    """The same PNG bytes and prompts through the official code and through this package."""

    @pytest.mark.parametrize("name", ["thesis", "fer2013"])
    def test_logits(self, made, name):
        module, params, features, golden = made
        classifier = classifier_from_params(params, variant=module.VARIANT, prompts=load_prompts(name))
        logits = classifier.logits(features)
        assert [f"{name}/{task}" for task in logits] == [
            key for key in golden.files if key.startswith(f"{name}/")
        ]
        for task, values in logits.items():
            np.testing.assert_allclose(values, golden[f"{name}/{task}"], rtol=0, atol=1e-4)

    def test_the_golden_tells_classes_images_and_prompts_apart(self, made):
        *_, golden = made
        for values in golden.values():
            classes = np.abs(values[:, :, None] - values[:, None])[:, ~np.eye(values.shape[1], dtype=bool)]
            images = np.abs(values[:, None] - values[None]).max(-1)[~np.eye(len(values), dtype=bool)]
            assert classes.min() > 1e-3
            assert images.min() > 0.1


class TestFeatures:
    def test_are_the_normalised_mean_of_normalised_embeddings(self, small):
        params = our_params(small)
        texts = ("they look happy.", "they look sad.")
        both = Prompts(name="x", tasks={"gender": (texts, texts[:1])})
        one = Prompts(name="x", tasks={"gender": (texts[:1], texts[1:])})
        mixed = classifier_from_params(params, variant="tiny-test", prompts=both)
        single = classifier_from_params(params, variant="tiny-test", prompts=one)
        mean = single.text_features["gender"].mean(axis=0)
        np.testing.assert_allclose(mixed.text_features["gender"][0], mean / np.linalg.norm(mean), atol=1e-6)
        np.testing.assert_allclose(
            mixed.text_features["gender"][1], single.text_features["gender"][0], atol=1e-6
        )

    def test_follow_the_label_order(self, small):
        classifier = classifier_from_params(
            our_params(small), variant="tiny-test", prompts=load_prompts("fer2013")
        )
        happy = EMOTION.classes.index("happy")
        alone = Prompts(
            name="x", tasks={"gender": (load_prompts("fer2013").tasks["emotion"][happy], ("they look sad.",))}
        )
        other = classifier_from_params(our_params(small), variant="tiny-test", prompts=alone)
        np.testing.assert_allclose(
            classifier.text_features["emotion"][happy], other.text_features["gender"][0], atol=1e-6
        )


class TestClassifier:
    CLASSIFIER = ZeroShotClassifier(
        text_features={"gender": np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)},
        logit_scale=float(np.log(10.0)),
    )

    def test_logits_are_scaled_cosines(self):
        logits = self.CLASSIFIER.logits(jnp.array([[3.0, 4.0], [0.0, -7.0]]))
        np.testing.assert_allclose(logits["gender"], [[6.0, 8.0], [0.0, -10.0]], atol=1e-5)

    def test_probabilities_are_their_softmax_under_jit_too(self):
        features = jnp.array([[3.0, 4.0]])
        want = 1 / (1 + np.exp(-2.0))
        for function in (self.CLASSIFIER.probabilities, jax.jit(self.CLASSIFIER.probabilities)):
            np.testing.assert_allclose(function(features)["gender"], [[1 - want, want]], atol=1e-6)

    def test_a_zero_feature_gives_no_nan(self):
        assert np.isfinite(self.CLASSIFIER.probabilities(jnp.zeros((1, 2)))["gender"]).all()


class TestCheckpoint:
    def test_from_a_file_and_from_parameters(self, checkpoint, small):
        prompts = load_prompts("thesis")
        from_file = zero_shot_classifier(checkpoint, variant="tiny-test", prompts=prompts)
        direct = classifier_from_params(our_params(small), variant="tiny-test", prompts=prompts)
        assert from_file.logit_scale == direct.logit_scale == float(small["logit_scale"])
        for task in TASKS:
            np.testing.assert_array_equal(from_file.text_features[task], direct.text_features[task])

    def test_clip_from_a_file_of_transformers(self, tmp_path):
        state, config = official_state("tiny-clip"), VISION["tiny-clip"]
        arrays = formats.of(config, "transformers").from_official(state)
        save_arrays(tmp_path / "clip.safetensors", arrays, metadata={})
        arguments = {"variant": "tiny-clip", "prompts": GENDER_ONLY}
        from_file = zero_shot_classifier(tmp_path / "clip.safetensors", **arguments)
        direct = classifier_from_params(our_params(state), **arguments)
        np.testing.assert_array_equal(from_file.text_features["gender"], direct.text_features["gender"])
        with pytest.raises(UserError, match="variant without a text encoder"):
            zero_shot_classifier(tmp_path / "clip.safetensors", **arguments | {"variant": "dinov2-s14"})

    def test_siglip2_with_the_tokenizer_beside_its_file(self, tmp_path):
        pytest.importorskip("tokenizers")
        state, config = official_state("tiny-siglip2"), VISION["tiny-siglip2"]
        arrays = formats.of(config, "open_clip").from_official(state)
        save_arrays(tmp_path / "both.safetensors", arrays, metadata={})
        vocabulary = gemma_file(tmp_path)
        prompts = Prompts(name="two", tasks={"gender": (("at a",), ("a at",))})
        arguments = {"variant": "tiny-siglip2", "prompts": prompts, "cache": tmp_path / "kept"}
        classifier = zero_shot_classifier(tmp_path / "both.safetensors", **arguments)
        ids = np.zeros((2, 16), np.int32)
        ids[0, :4] = [vocabulary[token] for token in ("at", "\u2581", "a", "<eos>")]
        ids[1, :3] = [vocabulary[token] for token in ("a", "\u2581at", "<eos>")]
        images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), minval=-1)
        model = CLIP(config, text_config=TEXT["tiny-siglip2"])
        params = {"params": our_params(state)}
        run = quick_jit(lambda p, x: (model.apply(p, x, method="encode_image"), model.apply(p, x, ids)))
        features, wanted = run(params, images)
        np.testing.assert_allclose(classifier.logits(features)["gender"], wanted, atol=1e-4)
        assert classifier.logit_bias == float(state["logit_bias"]) < -9
        again = zero_shot_classifier(tmp_path / "both.safetensors", **arguments)  # from the cache
        np.testing.assert_array_equal(again.logits(features)["gender"], classifier.logits(features)["gender"])
        unbiased = dataclasses.replace(classifier, logit_bias=0.0)
        for ours, theirs in zip(
            classifier.probabilities(features).values(),
            unbiased.probabilities(features).values(),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)

    def test_the_features_are_kept(self, checkpoint, tmp_path, monkeypatch):
        arguments = {"variant": "tiny-test", "prompts": load_prompts("thesis"), "cache": tmp_path / "kept"}
        first = zero_shot_classifier(checkpoint, **arguments)
        assert len(list((tmp_path / "kept").iterdir())) == 1
        monkeypatch.setattr("softbio_jax.interop.formats.read", lambda *a, **k: pytest.fail("read again"))
        again = zero_shot_classifier(checkpoint, **arguments)
        assert again.logit_scale == first.logit_scale
        assert list(again.text_features) == list(first.text_features) == list(TASKS)
        for task in TASKS:
            np.testing.assert_array_equal(again.text_features[task], first.text_features[task])

    @pytest.mark.parametrize("change", ["weights", "prompts", "compute", "task"])
    def test_kept_features_are_of_the_same_inputs(self, checkpoint, small, tmp_path, change):
        arguments = {"variant": "tiny-test", "prompts": GENDER_ONLY, "cache": tmp_path / "kept"}
        first = zero_shot_classifier(checkpoint, **arguments)
        match change:
            case "weights":
                save_arrays(checkpoint, small | {"logit_scale": np.float32(2.0)[()]}, metadata={})
            case "prompts":
                swapped = GENDER_ONLY.tasks["gender"][::-1]
                arguments["prompts"] = Prompts(name="two", tasks={"gender": swapped})
            case "compute":
                arguments["compute"] = ComputeConfig(dtype="bfloat16")
            case "task":
                moved = {"emotion": GENDER_ONLY.tasks["gender"]}
                arguments["prompts"] = Prompts(name="two", tasks=moved)
        second = zero_shot_classifier(checkpoint, **arguments)
        assert len(list((tmp_path / "kept").iterdir())) == 2
        assert (first.logit_scale == second.logit_scale) == (change != "weights")
        if change == "prompts":
            np.testing.assert_array_equal(second.text_features["gender"], first.text_features["gender"][::-1])

    def test_a_vision_tower_alone_is_refused(self, small, tmp_path):
        path = tmp_path / "vision.safetensors"
        alone = {key: value for key, value in small.items() if key.startswith("visual.")}
        save_arrays(path, alone, metadata={})
        with pytest.raises(UserError, match="no text encoder in the checkpoint"):
            zero_shot_classifier(path, variant="tiny-test", prompts=GENDER_ONLY)

    def test_a_variant_without_text_is_refused(self, checkpoint):
        with pytest.raises(UserError, match=r"without a text encoder.*PE-Core-T16-384.*PE-Spatial"):
            zero_shot_classifier(checkpoint, variant="PE-Spatial-T16-512", prompts=GENDER_ONLY)
