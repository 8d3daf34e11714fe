"""Zero-shot evaluation: a checkpoint with both encoders on the test sets, without training."""

import functools
import pathlib
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.zero_shot.classifier import zero_shot_classifier
from softbio_jax.evaluation.zero_shot.prompts import Prompts
from softbio_jax.models.config import TEXT, ComputeConfig, vision_config
from softbio_jax.models.flops import zero_shot_flops
from softbio_jax.models.forward import embed
from softbio_jax.models.text import TextEncoder
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import count
from softbio_jax.runs import directory, parallel
from softbio_jax.runs.data import eval_batches
from softbio_jax.runs.session import collect, packed

EMPTY: Mapping[str, Sequence[str]] = types.MappingProxyType({})


def evaluate_zero_shot(
    checkpoint: str,
    sets: Sequence[PreparedDataset],
    *,
    variant: str,
    prompts: Prompts,
    out: pathlib.Path,
    batch_size: int,
    compute: ComputeConfig,
    tokenizer: str | pathlib.Path | None = None,
    not_averaged: Mapping[str, Sequence[str]] = EMPTY,
    synthetic_labels: Mapping[str, Sequence[str]] = EMPTY,
) -> dict[str, Any]:
    """Classifies every test set by the nearest prompt and writes out/eval as a run's evaluation.

    Images are resized bit for bit as in the reference; text features are computed once and kept
    under out/text_features.

    Args:
      checkpoint: a file with both encoders, or a hub id.
      sets: the test sets.
      variant: the checkpoint's.
      prompts: the class descriptions per task.
      out: where eval/ is written.
      batch_size: images per forward pass, over all devices.
      compute: how both encoders are computed.
      tokenizer: the tokenizer.json of the variant's texts, see `zero_shot_classifier`.
      not_averaged: test set -> tasks excluded from the averages.
      synthetic_labels: test set -> tasks with labels of a model: excluded and marked.

    Returns:
      The contents of metrics.json.

    Raises:
      UserError: see `zero_shot_classifier`.
    """
    config, mesh = vision_config(variant), parallel.make_mesh()
    parallel.check_batch(batch_size, mesh, where="--batch_size")
    classifier = zero_shot_classifier(
        checkpoint,
        variant=config.name,
        prompts=prompts,
        compute=compute,
        cache=out / "text_features",
        tokenizer=tokenizer,
    )
    encoder = VisionEncoder(config, compute)
    params = parallel.replicate(load_pretrained(checkpoint, config=config), mesh)
    tasks = tuple(classifier.text_features)

    def forward(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        embedding = embed(encoder, params, batch["image"])
        return packed(batch, classifier.logits(embedding), embedding.astype(jnp.float32))

    compiled = jax.jit(forward, out_shardings=parallel.replicated(mesh))
    passes = []
    for dataset in sets:
        rows = evaluate.feature_rows(len(dataset))
        batches = eval_batches(
            dataset, image_size=config.image_size, batch_size=batch_size, tasks=tasks, resize=config.resize
        )
        step = functools.partial(compiled, params)
        with jax.set_mesh(mesh), jax.default_matmul_precision(compute.matmul_precision):
            passed = collect(step, batches, size=len(dataset), tasks=tasks, mesh=mesh, feature_rows=rows)
        passes.append(passed)
    if jax.process_index() != 0:
        return {}
    sizes = {"visual_encoder": count(params), "text_encoder": _text_parameters(config.name)}
    total = sum(sizes.values())
    results = [
        evaluate.predictions_of(passed, item, synthetic_labels=synthetic_labels.get(item.name, ()))
        for passed, item in zip(passes, sets, strict=True)
    ]
    model = {"variant": config.name, "method": "zs", "trainable_params": 0, "total_params": total}
    summary = evaluate.write(
        out,
        results,
        model=model | {"prompts": prompts.name},
        features=evaluate.features_of(passes, sets),
        not_averaged=not_averaged,
    )
    directory.update(
        out,
        {
            "command": " ".join(sys.argv),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "params": sizes | {"total": total},
            # Of one image and every prompt.
            "gflops": zero_shot_flops(config, TEXT[config.name], prompts=len(prompts.texts())).profiler / 1e9,
        },
    )
    print(evaluate.text(summary), flush=True)
    return summary


def _text_parameters(variant: str) -> int:
    """Returns the number of the text encoder's parameters, with logit_scale and any logit_bias."""
    config = TEXT[variant]
    ids = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
    shapes = jax.eval_shape(TextEncoder(config).init, jax.random.key(0), ids)
    return count(shapes["params"]) + 1 + config.logit_bias
