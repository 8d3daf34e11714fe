"""Models of random weights for latencies: an encoder with heads, and the ways to three answers."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from softbio_jax.evaluation.zero_shot.prompts import load_prompts
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import litert, onnx, stablehlo
from softbio_jax.inference.export.calibration import Calibration
from softbio_jax.models.config import TEXT, ComputeConfig, VisionConfig, vision_config
from softbio_jax.models.flops import matmul_flops
from softbio_jax.models.forward import embed
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.models.text import TextEncoder, normalise
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.tasks import TASKS, TaskSpec


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder, or its first blocks, at a size of its images in pixels."""

    variant: str
    size: int
    blocks: int = 0  # all

    @property
    def config(self) -> VisionConfig:
        config = vision_config(self.variant)
        return config.first(self.blocks, where=self.variant) if self.blocks else config

    @property
    def name(self) -> str:
        return self.config.name


MODELS = (
    Model("PE-Core-T16-384", 96),
    *(Model(f"PE-Core-{name}", size) for name in ("T16-384", "S16-384", "B16-224") for size in (112, 224)),
    Model("dinov2-s14", 98, blocks=6),
    Model("dinov2-s14", 98),
    Model("dinov2-s14", 224),
)
# Of one encoder: the baseline of two encoders, which reads every class' prompt with every image or once, a
# model per task, one for all tasks, and one for all tasks of a smaller encoder. All in JAX, as one program.
_ZERO_SHOT = ("zero-shot, prompts with every image", "zero-shot, prompts once")
_TRAINED = ("three single-task", "one multitask")
_STUDENTS = {
    "distilled into PE-Core-T16 at 112 pixels": Model("PE-Core-T16-384", 112),
    "distilled into the first 6 blocks": Model("dinov2-s14", 98, blocks=6),
}
_OF_B16, _OF_DINO = _STUDENTS
WAYS: Mapping[Model, Sequence[str]] = {
    Model("PE-Core-T16-384", 112): (*_ZERO_SHOT, *_TRAINED),
    Model("PE-Core-B16-224", 224): (*_ZERO_SHOT, *_TRAINED, _OF_B16),
    Model("dinov2-s14", 98): (*_TRAINED, _OF_DINO),
}
_IMAGES = 8  # for ranges, which have no effect on latency


def write(folder: pathlib.Path, model: Model) -> list[pathlib.Path]:
    """Exports a multitask model for LiteRT and ONNX, in float32 and int8; returns their folders."""
    bundle = _bundle(model, tuple(TASKS.values()))
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, model.size, model.size, 3), np.uint8)
    given = Calibration(sources=("random",), images=images, tolerance=1.0)
    litert.write(folder / "litert", bundle, int8=True, calibration=given)
    onnx.write(folder / "onnx", bundle, int8=True, calibration=given)
    return [folder / "litert", folder / "onnx"]


def write_way(folder: pathlib.Path, model: Model, way: str) -> pathlib.Path:
    """Exports one way to three answers as a StableHLO folder."""
    model = _STUDENTS.get(way, model)
    image = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.uint8)
    # Models of equal weights would be one model for the compiler.
    bundles = [_bundle(model, (task,), seed=i) for i, task in enumerate(TASKS.values())]
    if way == "one multitask" or way in _STUDENTS:
        bundles = [_bundle(model, tuple(TASKS.values()))]
    if way.startswith("zero-shot"):
        function, parameters = _zero_shot(model, once=way.endswith("once"))
    else:
        parameters = sum(leaf.size for b in bundles for leaf in jax.tree.leaves(b.variables["params"]))

        def function(images: jax.Array) -> dict[str, jax.Array]:
            return {task: x for b in bundles for task, x in b.forward(b.variables, images).items()}

    traced = jax.make_jaxpr(function)(image)
    exported = jax.export.export(jax.jit(function), platforms=["cpu"])(image)
    path = folder / way.replace(" ", "_").replace(",", "")
    path.mkdir()
    (path / stablehlo.FILE).write_bytes(exported.serialize())
    config = {
        "format": stablehlo.FORMAT,
        "file": stablehlo.FILE,
        "input": {"name": stablehlo.INPUT, "shape": list(image.shape), "type": "uint8"},
        "cost": {"parameters": int(parameters), "gflops": matmul_flops(traced) / 1e9},
    }
    (path / stablehlo.CONFIG).write_text(json.dumps(config))
    return path


def _zero_shot(model: Model, *, once: bool) -> tuple[Any, int]:
    """Returns the function from an image to the similarities with every prompt, and its parameters."""
    config, text = model.config, TEXT[model.variant]
    count = len(load_prompts("thesis").texts())
    ids = np.random.default_rng(0).integers(1, text.vocab, (count, text.context)).astype(np.int32)
    vision, words = VisionEncoder(config, ComputeConfig()), TextEncoder(text, ComputeConfig())
    image = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.float32)
    weights = _weights(jax.eval_shape(vision.init, jax.random.key(0), image))
    texts = jax.tree.map(jnp.asarray, _weights(jax.eval_shape(words.init, jax.random.key(0), ids)))
    known = words.apply(texts, ids)

    def function(images: jax.Array) -> dict[str, jax.Array]:
        # Zero, but not for the compiler, which would compute the texts once.
        zero = jnp.minimum(images[0, 0, 0, 0].astype(jnp.int32), 0)
        prompts = known if once else words.apply(texts, jnp.asarray(ids) + zero)
        return {"similarity": normalise(embed(vision, weights["params"], images)) @ normalise(prompts).T}

    return function, sum(leaf.size for leaf in jax.tree.leaves((weights, texts)))


def _bundle(model: Model, tasks: tuple[TaskSpec, ...], *, seed: int = 0) -> Bundle:
    net = MultitaskModel(model.config, compute=ComputeConfig(), tasks=tasks)
    image = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.float32)
    variables = _weights(jax.eval_shape(net.init, jax.random.key(0), image), seed)
    return Bundle(
        name=f"{model.name}-{model.size}",
        method="full",
        image_size=model.size,
        model=net,
        temperatures={},
        variables={"batch_stats": {}} | variables,
    )


def _weights(shapes: Any, seed: int = 0) -> Tree:
    """Returns random weights, each array seeded by its name and `seed`; scales are 1 and biases 0."""
    found = {}
    for path, leaf in flatten(dict(shapes)).items():
        last = path.rpartition("/")[2]
        if last in ("scale", "var", "gamma") or last in ("bias", "mean"):
            found[path] = np.full(leaf.shape, float(last in ("scale", "var", "gamma")), np.float32)
            continue
        name = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
        deviation = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.02
        found[path] = np.random.default_rng((name, seed)).normal(0, deviation, leaf.shape).astype(np.float32)
    return unflatten(found)
