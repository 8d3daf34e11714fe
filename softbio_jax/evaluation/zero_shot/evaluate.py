"""The zero-shot row: a two-tower checkpoint on the test sets, nothing trained."""

import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from softbio_jax import parallel
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.data import pipeline
from softbio_jax.data.augment import normalize
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.evaluation import collect, evaluate
from softbio_jax.evaluation import evaluate as evaluation
from softbio_jax.evaluation.zero_shot.classifier import zero_shot_classifier
from softbio_jax.evaluation.zero_shot.prompts import Prompts
from softbio_jax.models.config import TEXT, ComputeConfig, VisionConfig, vision_config
from softbio_jax.models.flops import Flops, zero_shot_flops
from softbio_jax.models.text import TextEncoder
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import count
from softbio_jax.runs import directory


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
) -> dict[str, Any]:
    """Classifies every test set by the nearest prompt and writes out/eval as a run's evaluation.

    Images go through the reference's resize, bit for bit; text features are computed once and
    kept under out/text_features.

    Args:
      checkpoint: a file with both towers, or a hub id.
      sets: the test sets.
      variant: the checkpoint's variant.
      prompts: the class descriptions a task.
      out: where eval/ is written.
      batch_size: images a pass over all devices.
      compute: how both towers are computed.
      tokenizer: CLIP's tokenizer.json, see `tokenizer.tokenize`.

    Returns:
      The contents of metrics.json.

    Raises:
      UserError: the checkpoint is not of this variant, or has no text tower.
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
    tower = VisionEncoder(config, compute)
    params = parallel.replicate(load_pretrained(checkpoint, config=config), mesh)
    tasks = tuple(classifier.text_features)

    def forward(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        embedding = tower.apply({"params": params}, normalize(batch["image"]))
        logits = classifier.logits(jnp.asarray(embedding))
        return collect.packed(batch, logits, jnp.asarray(embedding, jnp.float32))

    compiled = jax.jit(forward, out_shardings=parallel.replicated(mesh))
    passes = []
    for dataset in sets:
        batches = pipeline.eval_batches(
            dataset,
            image_size=config.image_size,
            batch_size=batch_size,
            tasks=tasks,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            resize="reference",
        )
        with jax.default_matmul_precision(compute.matmul_precision):
            passes.append(
                collect.collect(
                    functools.partial(compiled, params),
                    batches,
                    size=len(dataset),
                    tasks=tasks,
                    mesh=mesh,
                    feature_rows=evaluation.feature_rows(len(dataset)),
                )
            )
    if jax.process_index() != 0:
        return {}
    sizes = {"visual_encoder": count(params), "text_encoder": _text_parameters(config.name)}
    total = sum(sizes.values())
    results = [collect.predictions(out, item) for out, item in zip(passes, sets, strict=True)]
    summary = evaluation.write(
        out,
        results,
        model={
            "variant": config.name,
            "method": "zs",
            "trainable_params": 0,
            "total_params": total,
            "prompts": prompts.name,
        },
        features=collect.kept_features(passes, sets),
    )
    directory.update(
        out,
        {
            "command": " ".join(sys.argv),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "params": sizes | {"total": total},
            "gflops": _flops(config, prompts).profiler / 1e9,
        },
    )
    print(evaluate.text(summary), flush=True)
    return summary


def _flops(config: VisionConfig, prompts: Prompts) -> Flops:
    """Returns the operations for one image and every prompt, as the thesis counts its own."""
    return zero_shot_flops(config, TEXT[config.name], prompts=len(prompts.texts()))


def _text_parameters(variant: str) -> int:
    """Returns the text tower's parameters and logit_scale's one."""
    config = TEXT[variant]
    ids = jax.ShapeDtypeStruct((1, config.context), jnp.int32)
    shapes = jax.eval_shape(TextEncoder(config).init, jax.random.key(0), ids)
    return count(shapes["params"]) + 1
