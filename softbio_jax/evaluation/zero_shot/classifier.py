"""Zero-shot classification: an image belongs to the class with the closest prompts."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot import gemma
from softbio_jax.evaluation.zero_shot.prompts import Prompts
from softbio_jax.evaluation.zero_shot.tokenizer import tokenize
from softbio_jax.interop import formats, stacking
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.reading.locate import resolve
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import TEXT, ComputeConfig, vision_config
from softbio_jax.models.text import TextEncoder, normalise, similarity_logits
from softbio_jax.params import Tree, unflatten

# Part of the cache's key: increment it when the features of the same weights and ids change.
_CACHE_VERSION = 1
_SCALARS = ("logit_scale", "logit_bias")
# Text features are computed once, so exactness costs nothing.
EXACT = ComputeConfig(matmul_precision="highest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotClassifier:
    """A linear classifier per task whose rows are text features.

    Args:
      text_features: task -> (C, out) float32, rows of norm 1, in label order.
      logit_scale: logarithm of the factor on the cosines.
      logit_bias: what is added to all logits, for models of the sigmoid loss.
    """

    text_features: Mapping[str, np.ndarray]
    logit_scale: float
    logit_bias: float = 0.0

    def logits(self, image_features: jax.Array) -> dict[str, jax.Array]:
        """Returns exp(logit_scale) cos(image, class) + logit_bias, task -> (B, C) float32; it may be jitted.

        The image features (B, out) are the vision encoder's projected output, not normalised.
        """
        return {
            task: similarity_logits(image_features, jnp.asarray(features), self.logit_scale, self.logit_bias)
            for task, features in self.text_features.items()
        }

    def probabilities(self, image_features: jax.Array) -> dict[str, jax.Array]:
        """Returns the softmax of `logits` over each task's classes: task -> (B, C) float32.

        A face has one class of each task, so that the classes share 1 also with models of the sigmoid loss;
        the bias cancels. The probability that such a model gives a pair alone is the sigmoid of its logit.
        """
        return jax.tree.map(jax.nn.softmax, self.logits(image_features))


def zero_shot_classifier(
    checkpoint: str | pathlib.Path,
    *,
    variant: str,
    prompts: Prompts,
    compute: ComputeConfig = EXACT,
    cache: str | pathlib.Path | None = None,
    tokenizer: str | pathlib.Path | None = None,
) -> ZeroShotClassifier:
    """Builds the classifier of a checkpoint and prompts, or reads it from the cache.

    Args:
      checkpoint: a file with both encoders, in any of its family's formats, or a hub id.
      variant: the checkpoint's.
      prompts: the texts of each class.
      compute: how the text encoder is computed.
      cache: a folder of text features by the digest of the checkpoint's bytes, the token ids and
        `compute`; None: always compute them.
      tokenizer: the tokenizer.json of the variant's texts, see `tokenizer.tokenize` and `gemma.tokenize`;
        None: with Gemma's texts the one beside the checkpoint, if there is one.

    Raises:
      UserError: the variant or the file has no text encoder, the file is unreadable or of another
        variant, or a prompt needs a tokenizer that is not available.
    """
    config, path = vision_config(variant), resolve(str(checkpoint))
    ids = _ids(prompts, variant=config.name, file=tokenizer, beside=path)
    cached = None
    if cache is not None:
        cached = pathlib.Path(cache) / f"text_features_{_digest(path, ids, compute)[:16]}.safetensors"
        if cached.is_file():
            arrays, _ = load_arrays(cached)
            return ZeroShotClassifier(
                text_features={task: arrays[task] for task in ids},
                logit_scale=float(arrays["logit_scale"]),
                logit_bias=float(arrays.get("logit_bias", 0.0)),
            )
    state = formats.read(path, config=config)
    texts = {key: array for key, array in state.items() if not key.startswith("visual.")}
    if "logit_scale" not in texts:
        expected, found = "a complete model, image and text", "only a vision encoder"
        what, fix = "no text encoder in the checkpoint", f"use the official {config.name} file"
        raise UserError(what, where=str(path), expected=expected, found=found, fix=fix)
    params = unflatten(stacking.stack(OFFICIAL.forward(texts)))
    classifier = _classifier(params, ids, variant=config.name, compute=compute)
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        scalars = {name: np.asarray(getattr(classifier, name), np.float32) for name in _SCALARS}
        arrays = {**classifier.text_features, **scalars}
        save_arrays(cached, arrays, metadata={"variant": config.name, "prompts": prompts.name})
    return classifier


def classifier_from_params(
    params: Mapping[str, Any],
    *,
    variant: str,
    prompts: Prompts,
    compute: ComputeConfig = EXACT,
    tokenizer: str | pathlib.Path | None = None,
) -> ZeroShotClassifier:
    """Builds the classifier from nested parameters, `text` and `logit_*`; see `zero_shot_classifier`.

    A class's feature is the mean of its prompts' normalised embeddings, normalised again.
    """
    name = vision_config(variant).name
    ids = _ids(prompts, variant=name, file=tokenizer)
    return _classifier(params, ids, variant=name, compute=compute)


Ids = dict[str, list[np.ndarray]]  # task -> class -> (prompts, context)


def _ids(
    prompts: Prompts, *, variant: str, file: str | pathlib.Path | None, beside: pathlib.Path | None = None
) -> Ids:
    if variant not in TEXT:
        what, where, expected = "variant without a text encoder", "model.variant", f"one of {', '.join(TEXT)}"
        fix = "choose a Core, CLIP or SigLIP 2 variant"
        raise UserError(what, where=where, expected=expected, found=repr(variant), fix=fix)
    config = TEXT[variant]
    encode: Callable[[Sequence[str]], np.ndarray]
    encode = functools.partial(tokenize, context=config.context, file=file)
    if config.tokenizer == "gemma":
        own = None if beside is None else beside.parent / gemma.FILE
        file = own if file is None and own is not None and own.is_file() else file
        encode = functools.partial(gemma.tokenize, context=config.context, vocab=config.vocab, file=file)
    return {task: [encode(texts) for texts in classes] for task, classes in prompts.tasks.items()}


def _classifier(
    params: Tree | Mapping[str, Any], ids: Ids, *, variant: str, compute: ComputeConfig
) -> ZeroShotClassifier:
    encoder = TextEncoder(TEXT[variant], compute)

    @jax.jit
    def embed(text_params: Tree, rows: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(compute.matmul_precision):
            embeddings = jnp.asarray(encoder.apply({"params": text_params}, rows))
            return normalise(embeddings.astype(jnp.float32))

    rows = np.concatenate([rows for classes in ids.values() for rows in classes])
    embeddings = iter(np.asarray(embed(params["text"], rows)))
    features = {}
    for task, classes in ids.items():
        means = [np.mean([next(embeddings) for _ in rows], axis=0) for rows in classes]
        features[task] = np.asarray(normalise(jnp.stack(means)))
    scale, bias = float(params["logit_scale"]), float(params.get("logit_bias", 0.0))
    return ZeroShotClassifier(text_features=features, logit_scale=scale, logit_bias=bias)


def _digest(path: pathlib.Path, ids: Ids, compute: ComputeConfig) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(f"{_CACHE_VERSION} {compute}".encode())
    for task, classes in ids.items():
        for rows in classes:
            digest.update(f"{task} {rows.shape} ".encode() + rows.astype("<i4").tobytes())
    return digest.hexdigest()
