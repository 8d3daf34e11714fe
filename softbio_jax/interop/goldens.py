"""Stored outputs of the reference implementation on name-seeded weights and images."""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.interop import ladder
from softbio_jax.models.config import TEXT, VISION, Pooling, TextConfig, VisionConfig

# Uniform on [-1, 1) has standard deviation 1 / sqrt(3).
_UNIT = math.sqrt(3.0)
_MANTISSA = 1 << 23
_SAMPLES = 251  # values stored of a long stage; prime, so that they cover all channels
_COMPLETE = 4096  # stages up to this size are stored completely
ROUNDING = "rounding.json"  # {case: {stage: the reference's largest difference, float32 from float64}}
_ALIKE, _TINY = 3.0, 1e-9


def named_uniform(name: str, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Returns float32 values on [-1, 1), a pure function of (name, shape, seed).

    Every value is an integer times 2^-23, so the bit patterns are the same on every machine. By
    convention the name is the official checkpoint key.
    """
    size = math.prod(shape)
    digest = hashlib.sha256(f"{seed}:{name}:{','.join(map(str, shape))}".encode()).digest()
    philox = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    words = philox.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]
    words >>= np.uint32(8)
    values = words.astype(np.float32)
    values -= np.float32(_MANTISSA)
    values *= np.float32(1.0 / _MANTISSA)
    return values.reshape(shape)


def named_weight(name: str, shape: tuple[int, ...], *, seed: int = 0, qk_gain: float = 3.0) -> np.ndarray:
    """Returns one parameter of an official checkpoint at a realistic scale, float32.

    Kernels have torch's default deviations, 1 / sqrt(3 fan_in) and Xavier's for the fused
    projection, which keep float32 rounding from being amplified block by block; norm scales are
    around 1, LayerScale around 0.1, biases around 0. The query and key rows (the first two thirds)
    of a block's fused projection are multiplied by `qk_gain`: near-uniform attention would hide a
    position bug. The pool has no rotary positions and keeps its scale, as a sharp probe would
    amplify rounding.

    Args:
      name: official key, such as `visual.transformer.resblocks.0.attn.in_proj_weight`.
      shape: its shape in the official layout.
      seed: selects another set of values.
      qk_gain: factor on queries and keys.
    """
    values = named_uniform(name, shape, seed=seed)
    centre, deviation = _centre_and_deviation(name, shape)
    values *= np.float32(deviation * _UNIT)
    if centre:
        values += np.float32(centre)
    if "resblocks" in name and name.endswith("in_proj_weight"):
        values[: 2 * shape[0] // 3] *= np.float32(qk_gain)
    return values


def named_state(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0, qk_gain: float = 3.0
) -> dict[str, np.ndarray]:
    """Returns `named_weight` of every official key and shape."""
    return {
        name: named_weight(name, tuple(shape), seed=seed, qk_gain=qk_gain) for name, shape in shapes.items()
    }


def _centre_and_deviation(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "logit_scale":
        return math.log(100.0), 0.01
    if leaf == "gamma":
        return 0.1, 0.02
    if leaf == "logit_bias":
        return -10.0, 0.01
    if leaf in ("bias", "in_proj_bias", "text_projection_bias"):
        return 0.0, 0.02
    if leaf == "weight" and len(shape) == 1:
        return 1.0, 0.1
    if leaf == "probe" or "token_embedding" in name:
        return 0.0, 1.0
    if leaf in ("positional_embedding", "class_embedding", "register_tokens"):
        return 0.0, 0.3
    if leaf == "in_proj_weight":
        return 0.0, 1.0 / math.sqrt(2.0 * shape[1])
    # torch stores kernels as (out, in, ...); the two projections are (in, out).
    fan_in = shape[0] if leaf in ("proj", "text_projection") else math.prod(shape[1:])
    return 0.0, 1.0 / math.sqrt(3.0 * fan_in)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One encoder and one image size; `layers` truncates an encoder too large for a quick test."""

    variant: str
    size: tuple[int, int]  # H, W in pixels
    layers: int | None = None
    pooling: Pooling | None = None
    text: bool = False

    @property
    def name(self) -> str:
        cut = "" if self.layers is None else f"-{self.layers}-blocks"
        pooled = "" if self.pooling is None else f"-{self.pooling}"
        return f"{self.variant}{cut}{pooled}-at-{self.size[0]}x{self.size[1]}"

    @property
    def config(self) -> VisionConfig:
        full = VISION[self.variant]
        layers, pooling = self.layers or full.layers, self.pooling or full.pooling
        return dataclasses.replace(full, layers=layers, pooling=pooling)

    @property
    def text_config(self) -> TextConfig | None:
        return TEXT[self.variant] if self.text else None

    def images(self) -> np.ndarray:
        """Returns (1, H, W, 3) float32 in [-1, 1)."""
        return named_uniform("image", (1, *self.size, 3))


CASES = (
    Case(variant="PE-Core-T16-384", size=(384, 384), text=True),
    Case(variant="PE-Core-T16-384", size=(320, 448)),
    Case(variant="PE-Core-S16-384", size=(384, 384), text=True),
    Case(variant="PE-Core-S16-384", size=(416, 256)),
    Case(variant="PE-Core-B16-224", size=(224, 224), text=True),
    Case(variant="PE-Core-B16-224", size=(192, 288)),
    Case(variant="PE-Core-L14-336", size=(336, 336), text=True),
    Case(variant="PE-Core-L14-336", size=(224, 308)),
    Case(variant="PE-Core-G14-448", layers=2, size=(168, 112)),
    Case(variant="PE-Lang-L14-448", layers=2, size=(112, 168)),
    Case(variant="PE-Lang-G14-448", layers=1, size=(168, 112)),
    Case(variant="PE-Spatial-T16-512", size=(256, 320)),
    Case(variant="PE-Spatial-L14-448", layers=2, size=(112, 168)),
    Case(variant="tiny-faces", size=(36, 60)),  # its projection is square
    Case(variant="tiny-test", pooling="tok", size=(40, 24)),
    Case(variant="tiny-test", pooling="avg", size=(40, 24)),
    Case(variant="dinov2-s14", layers=4, size=(112, 84)),
    Case(variant="tiny-dinov2-reg4", size=(40, 24)),
    Case(variant="tiny-clip", size=(40, 24)),
    Case(variant="tiny-siglip2", size=(40, 24)),
    Case(variant="tiny-dinov3-plus", size=(40, 24)),
)


def text_ids(context: int) -> np.ndarray:
    """Returns (3, context) int32 ids as the reference's tokenizer pads them: 0 after the end.

    The texts are "a photo of a happy face", its first three words, and one that fills the context.
    """
    start, end = 49406, 49407
    words = [320, 1125, 539, 320, 900, 1710]
    long = [words[i % len(words)] + i for i in range(context - 2)]
    texts = ([start, *words, end], [start, *words[:3], end], [start, *long, end])
    return np.array([[*ids, *[0] * (context - len(ids))] for ids in texts], np.int32)


def sample(array: np.ndarray) -> np.ndarray:
    """Returns the values of a stage that a golden stores, a float32 vector: all or evenly spaced ones."""
    flat = np.ravel(array).astype(np.float32)
    if flat.size <= _COMPLETE:
        return flat
    return flat[np.linspace(0, flat.size - 1, _SAMPLES).astype(np.int64)]


def sampled(rungs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `sample` of every stage."""
    return {name: sample(array) for name, array in rungs.items()}


def load(folder: str | pathlib.Path, case: Case) -> dict[str, np.ndarray]:
    """Reads a case's stored stages.

    Raises:
      UserError: the file is missing.
    """
    path = pathlib.Path(folder) / f"{case.name}.npz"
    if not path.is_file():
        raise UserError(
            "no stored golden",
            where=str(path),
            expected="a file of that name",
            found="nothing",
            fix="use --reference=official, or scripts/dev/make_goldens.py",
        )
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def rounding(folder: str | pathlib.Path, case: Case) -> dict[str, float] | None:
    """Reads the reference's own rounding in each stage of a case, from float64; None if it is not stored."""
    path = pathlib.Path(folder) / ROUNDING
    return json.loads(path.read_text()).get(case.name) if path.is_file() else None


def store_rounding(folder: str | pathlib.Path, case: Case, noise: Mapping[str, float]) -> bool:
    """Writes the rounding of a case unless that stored is like it; returns whether it wrote.

    Rounding depends on the machine: within a factor of `_ALIKE` it is left as it is.
    """
    path, old = pathlib.Path(folder) / ROUNDING, rounding(folder, case)
    if old is not None and old.keys() == noise.keys():
        ratios = [(noise[name] + _TINY) / (old[name] + _TINY) for name in old]
        if all(1 / _ALIKE <= ratio <= _ALIKE for ratio in ratios):
            return False
    stored = json.loads(path.read_text()) if path.is_file() else {}
    stored[case.name] = {name: float(f"{value:.2g}") for name, value in noise.items()}
    files.write_text(path, json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    return True


def store(folder: str | pathlib.Path, case: Case, rungs: Mapping[str, np.ndarray]) -> str:
    """Writes a case's stages, unless those stored differ from them by rounding alone.

    Returns:
      what changed, or an empty string if nothing was written.
    """
    noise = rounding(folder, case)
    path, new, changed = pathlib.Path(folder) / f"{case.name}.npz", sampled(rungs), "new"
    if path.is_file():
        old = load(folder, case)
        if {name: array.shape for name, array in old.items()} != {name: x.shape for name, x in new.items()}:
            changed = "other stages"
        else:
            changed = ", ".join(
                f"{rung.name} by {rung.difference:.1e}"
                for rung in ladder.compare(new, old, noise=noise)
                if not rung.holds
            )
    if changed:
        with files.atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **new)
    return changed
