"""Stored outputs of the reference implementation on name-seeded weights and images."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop.named_weights import named_uniform
from softbio_jax.models.config import TEXT, VISION, Pooling, TextConfig, VisionConfig

_SAMPLES = 251  # values kept of a long rung; prime, so that they fall on all channels
_WHOLE = 4096  # rungs up to this size are kept whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One tower and one image size; `layers` cuts a tower too large for a quick test."""

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
        whole = VISION[self.variant]
        return dataclasses.replace(
            whole, layers=self.layers or whole.layers, pooling=self.pooling or whole.pooling
        )

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
    """Returns the values of a rung that a golden keeps: all, or evenly spaced ones.

    Args:
      array: of any shape.

    Returns:
      float32 vector.
    """
    flat = np.ravel(array).astype(np.float32)
    if flat.size <= _WHOLE:
        return flat
    return flat[np.linspace(0, flat.size - 1, _SAMPLES).astype(np.int64)]


def sampled(rungs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `sample` of every rung."""
    return {name: sample(array) for name, array in rungs.items()}


def load(folder: str | pathlib.Path, case: Case) -> dict[str, np.ndarray]:
    """Reads a case's stored rungs.

    Raises:
      UserError: the file is not there.
    """
    path = pathlib.Path(folder) / f"{case.name}.npz"
    if not path.is_file():
        raise UserError("no stored golden", where=str(path), expected="a file of that name",
                        found="nothing",
                        fix="take --reference=official, or scripts/make_goldens.py")  # fmt: skip
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
