"""Floating-point operations of the towers and heads, forward, from shapes alone.

Two conventions side by side, see docs/counting.md: `Flops.total` counts every multiply-add of a
matrix product twice, attention's included; `Flops.profiler` is what torch's profiler prints,
which leaves attention out and adds elementwise products and sums.
"""

import dataclasses
from collections.abc import Iterator

from softbio_jax.models.config import TextConfig, VisionConfig
from softbio_jax.models.heads import HeadConfig

# What the profiler sees the reference's rotation do to one number of q or k: two products and,
# by a constant scale of one, two more; then one sum.
_ROTATION = 4 + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations by kind; they add up and multiply by a number of images or texts.

    Args:
      dense: matrix products with weights and the patch convolution, two a multiply-add.
      attention: q k^T and its product with v, two a multiply-add, masked places included.
      elementwise: the products and sums of the reference's forward pass that torch's profiler
        counts, one each: positions, rotation, LayerScale, residuals.
    """

    dense: int = 0
    attention: int = 0
    elementwise: int = 0

    @property
    def total(self) -> int:
        """All matrix products, attention included."""
        return self.dense + self.attention

    @property
    def profiler(self) -> int:
        """The figure of torch.profiler with_flops, which has no formula for fused attention."""
        return self.dense + self.elementwise

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            dense=self.dense + other.dense,
            attention=self.attention + other.attention,
            elementwise=self.elementwise + other.elementwise,
        )

    def __mul__(self, times: int) -> "Flops":
        return Flops(
            dense=times * self.dense,
            attention=times * self.attention,
            elementwise=times * self.elementwise,
        )

    __rmul__ = __mul__


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """`layers` equal matrices (inputs, outputs) applied to `rows` rows an image.

    The path is the one that `AdapterRules` match, such as encoder/trunk/attn/qkv.
    """

    path: str
    rows: int
    inputs: int
    outputs: int
    layers: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs * self.layers


def dense_layers(
    config: VisionConfig, *, grid: tuple[int, int] | None = None, tail: int = 0
) -> Iterator[DenseLayer]:
    """Yields the tower's matrices that adapters may adapt.

    Args:
      config: the variant.
      grid: rows and columns of patches; None for the variant's own.
      tail: how many last blocks are kept apart.
    """
    tokens, width = tokens_of(config, grid), config.width
    for part, layers in (("trunk", config.layers - tail), ("tail", tail)):
        if layers:
            sizes = _block_sizes(width, config.mlp_width)
            for name, (inputs, outputs) in sizes.items():
                yield DenseLayer(path=f"encoder/{part}/{name}", rows=tokens, inputs=inputs,
                                 outputs=outputs, layers=layers)  # fmt: skip
    if config.pooling == "attn":
        sizes = {"attn/q": (width, width), "attn/kv": (width, 2 * width)}
        sizes |= {key: size for key, size in _block_sizes(width, 4 * width).items()
                  if key != "attn/qkv"}  # fmt: skip
        for name, (inputs, outputs) in sizes.items():
            rows = tokens if name == "attn/kv" else 1
            yield DenseLayer(path=f"pool/{name}", rows=rows, inputs=inputs, outputs=outputs)


def vision_flops(
    config: VisionConfig, *, grid: tuple[int, int] | None = None, projected: bool = True
) -> Flops:
    """Returns the operations of the vision tower for one image.

    Resampling the positional embedding at another grid is once a pass and not counted.

    Args:
      config: the variant.
      grid: rows and columns of patches; None for the variant's own.
      projected: whether the projection is applied; heads on the pooled feature skip it.
    """
    rows, columns = grid or (config.grid, config.grid)
    tokens, width, layers = tokens_of(config, grid), config.width, config.layers
    dense = 2 * rows * columns * width * 3 * config.patch_size**2
    dense += sum(layer.flops for layer in dense_layers(config, grid=grid))
    attention = layers * 4 * tokens**2 * width
    scales = 0 if config.layer_scale is None else 2
    elementwise = tokens * width * (1 + layers * (2 * _ROTATION + 2 + scales))
    if config.pooling == "attn":
        attention += 4 * tokens * width
        elementwise += width
    if projected and config.out_dim is not None:
        outputs = tokens if config.pooling == "none" else 1
        dense += 2 * outputs * width * config.out_dim
    return Flops(dense=dense, attention=attention, elementwise=elementwise)


def text_flops(config: TextConfig, *, tokens: int | None = None) -> Flops:
    """Returns the operations of the text tower for one text.

    Args:
      config: the variant.
      tokens: length of the padded text; None for the whole context.
    """
    n, width, layers = config.context if tokens is None else tokens, config.width, config.layers
    sizes = _block_sizes(width, config.mlp_width).values()
    return Flops(
        dense=2 * n * layers * sum(i * o for i, o in sizes) + 2 * width * config.out_dim,
        attention=layers * 4 * n**2 * width,
        elementwise=n * width * (1 + 2 * layers),
    )


def zero_shot_flops(vision: VisionConfig, text: TextConfig, *, prompts: int) -> Flops:
    """Returns the operations for one image and some texts, with their similarities.

    Args:
      vision: the image's tower.
      text: the texts' tower.
      prompts: how many texts.
    """
    similarity = Flops(dense=2 * text.out_dim * prompts)
    return vision_flops(vision) + prompts * text_flops(text) + similarity


def head_flops(config: HeadConfig, *, width: int, classes: int) -> Flops:
    """Returns the operations of one task's head on one feature: 2 D C, deep 2 D^2 + 2 D C.

    Args:
      config: linear or deep.
      width: D of the feature.
      classes: C.
    """
    hidden = 2 * width**2 if config.kind == "deep" else 0
    return Flops(dense=hidden + 2 * width * classes)


def tokens_of(config: VisionConfig, grid: tuple[int, int] | None) -> int:
    """Returns N on a grid of patches, or on the variant's own."""
    rows, columns = grid or (config.grid, config.grid)
    return rows * columns + int(config.class_token)


def _block_sizes(width: int, hidden: int) -> dict[str, tuple[int, int]]:
    return {
        "attn/qkv": (width, 3 * width),
        "attn/out": (width, width),
        "mlp/c_fc": (width, hidden),
        "mlp/c_proj": (hidden, width),
    }
