"""The ladder: every stage of the forward pass, compared one by one (rung by rung) with a reference."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop import stacking
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.models import positions
from softbio_jax.models.config import ComputeConfig, TextConfig, VisionConfig
from softbio_jax.models.text import TextEncoder, normalise, similarity_logits
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import unflatten

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One stage: the largest absolute difference and its limit."""

    name: str
    difference: float
    scale: float  # the reference's largest absolute value
    limit: float  # the largest allowed difference
    noise: float | None = None  # the reference's own rounding, where it was measured

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit  # False for NaN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Allowed differences: absolute ones by rung, otherwise relative to the rung's scale.

    Where the reference's rounding was measured: `TIMES` it, and at least `least` of the scale.
    """

    absolute: Mapping[str, float]
    relative: float
    least: float

    def of(self, name: str, scale: float, noise: float | None = None) -> float:
        """Returns the limit of a rung."""
        if noise is None or name == "rotary":  # a reference may compute its table in one type only
            return self.absolute.get(name, self.relative * scale)
        return max(TIMES * noise, self.least * scale)


# Measured: 0.7 to 1.8 times the reference's rounding, with query and key rows scaled by 1, 3 and 8.
TIMES = 4.0
# The normalised embedding decides. In other stages rounding accumulates over the blocks before.
LIMITS = {
    "float32": Limits(
        absolute={
            "rotary": 2e-6,
            "embedding_normalised": 1e-6,
            "text_normalised": 1e-6,
            "logits": 1e-4,  # a hundred times a cosine
        },
        relative=1e-4,
        least=1e-6,
    ),
    # Measured with query and key rows scaled by 3: the embedding differs by 2.0e-3 (S) to 2.8e-3
    # (L), the worst value of a block of L by 13 % of the block's largest.
    "bfloat16": Limits(absolute={"rotary": 2e-6, "embedding_normalised": 5e-3}, relative=0.25, least=1e-2),
}


def vision_rungs(
    config: VisionConfig, state: Arrays, images: np.ndarray, *, compute: ComputeConfig | None = None
) -> dict[str, np.ndarray]:
    """Runs our vision encoder and returns every stage by name, in forward order.

    Args:
      config: the variant.
      state: official `visual.` key -> array.
      images: (B, H, W, 3) in [-1, 1].
      compute: how to compute; None for float32.

    Returns:
      rotary (N, 2 head_dim) [sin, cos], where the variant turns, patches, positions (their sum), pre,
      block_01.., tokens, pooled, and, where the variant projects, embedding and embedding_normalised.
    """
    encoder = VisionEncoder(config, compute or ComputeConfig())
    vision = {key: array for key, array in state.items() if key.startswith("visual.")}
    params = unflatten(stacking.stack(OFFICIAL.forward(vision)))
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda p, x: encoder.apply({"params": p}, x, method="states"))
        states = {name: np.asarray(value) for name, value in run(params, images).items()}
    grid = (images.shape[1] // config.patch_size, images.shape[2] // config.patch_size)
    rungs: dict[str, np.ndarray] = {}
    if config.rotary:
        turn = positions.turns(config, grid)
        rungs["rotary"] = np.concatenate([np.sin(turn), np.cos(turn)], axis=-1)
    rungs |= {name: states[name] for name in ("patches", "positions", "pre")}
    rungs |= {f"block_{i + 1:02d}": block for i, block in enumerate(states["blocks"])}
    rungs |= {name: states[name] for name in ("tokens", "pooled")}
    if config.out_dim is not None:
        rungs["embedding"] = states["embedding"]
        rungs["embedding_normalised"] = np.asarray(normalise(jnp.asarray(states["embedding"], jnp.float32)))
    return rungs


def text_rungs(
    config: TextConfig, state: Arrays, ids: np.ndarray, embedding: np.ndarray
) -> dict[str, np.ndarray]:
    """Runs our text encoder and the logits against an image embedding.

    Args:
      config: the text encoder.
      state: official text key -> array, including `logit_scale`.
      ids: (C, N) int32.
      embedding: (B, out), of the images.

    Returns:
      text, text_normalised (C, out) and logits (B, C).
    """
    text = {key: array for key, array in state.items() if not key.startswith("visual.")}
    params = unflatten(stacking.stack(OFFICIAL.forward(text)))
    encoder = TextEncoder(config)
    with jax.default_matmul_precision("highest"):
        features = jax.jit(lambda p, x: encoder.apply({"params": p}, x))(params["text"], ids)
        scale, bias = params["logit_scale"], params.get("logit_bias", 0.0)
        logits = similarity_logits(jnp.asarray(embedding), features, scale, bias)
    return {
        "text": np.asarray(features),
        "text_normalised": np.asarray(normalise(features)),
        "logits": np.asarray(logits),
    }


def rounding(reference: Arrays, exact: Arrays) -> dict[str, float]:
    """Returns the largest difference of each rung between a reference and the same in float64.

    The few logits may agree by chance; theirs is at least that of the two embeddings, times the scale.
    """
    noise = {name: _largest(array, exact[name]) for name, array in reference.items()}
    if "logits" in noise:
        cosines = exact["embedding_normalised"] @ exact["text_normalised"].T
        scale = float(np.abs(exact["logits"]).max() / np.abs(cosines).max())
        both = noise["embedding_normalised"] + noise["text_normalised"]
        noise["logits"] = max(noise["logits"], scale * both)
    return noise


def compare(
    ours: Arrays,
    reference: Arrays,
    *,
    limits: Limits = LIMITS["float32"],
    noise: Mapping[str, float] | None = None,
) -> Iterator[Rung]:
    """Yields the rungs that both have, in our order.

    Args:
      ours: rungs of this port.
      reference: rungs of the reference.
      limits: what is allowed.
      noise: `rounding` of the reference on these weights; None for limits that do not depend on them.

    Raises:
      UserError: a rung of another shape, or none in common.
    """
    names = [name for name in ours if name in reference]
    if not names:
        raise UserError(
            "nothing to compare",
            where="the ladder",
            expected=", ".join(ours),
            found=", ".join(reference),
            fix="use the reference's variant",
        )
    for name in names:
        left, right = ours[name], reference[name]
        if left.shape != right.shape:
            raise UserError(
                "shapes differ",
                where=f"rung {name}",
                expected=str(right.shape),
                found=str(left.shape),
                fix="compare the same input",
            )
        scale = float(np.abs(right).max())
        own = None if noise is None else noise[name]
        yield Rung(
            name=name,
            difference=_largest(left, right),
            scale=scale,
            limit=limits.of(name, scale, own),
            noise=own,
        )


def _largest(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max())
