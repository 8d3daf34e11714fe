"""Every encoder by name, as frozen dataclasses; their values are those of models/families/."""

import dataclasses
import difflib
import re
from typing import Annotated, Any, Literal

from softbio_jax.errors import UserError, nearest
from softbio_jax.models.families import clip, dinov2, dinov3, perception, siglip2
from softbio_jax.ranges import Name, Range, check_fields

Family = Literal["perception", "dinov2", "clip", "siglip2", "dinov3"]
Pooling = Literal["attn", "tok", "avg", "tok+avg", "none"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]
Precision = Literal["default", "high", "highest", "bfloat16", "tensorfloat32", "float32"]
Resample = Literal["official", "timm", "dinov2", "transformers"]
Rotary = Literal["pe", "dinov3", False]  # False, not None: files hold it
MOST_PIXELS = 4096  # a side of the model's images
# Beyond the largest published encoder, and small enough that shapes are computed at once.
Size = Annotated[int, Range(1, 2**16)]
Side = Annotated[int, Range(1, MOST_PIXELS)]
Count = Annotated[int, Range(1, 1024)]
Channel = Annotated[float, Range(0, 1)]  # a mean or deviation of pixels in [0, 1]
_MOST_GRID = 256  # patches on a side
_HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision encoder: L blocks of width D over a (image_size / patch_size)^2 grid.

    The defaults are the Perception Encoder's.

    resample is the treatment of other grids. "official": bilinear positional embedding without
    antialias, integer rotary positions; "timm": bicubic with antialias, rotary positions rescaled
    to the stored grid; "dinov2" and "transformers": bicubic without antialias, as these resize
    DINOv2's. At image_size they are the same. resize is the preprocessing of the published weights, which
    zero-shot uses, see `decode`.

    rotary is the table by which q and k are turned in every block, see `positions`: "pe", the Perception
    Encoder's; "dinov3", DINOv3's; False, none.

    Pooling is of the final tokens: "attn", attention with a learned query; "tok", the class token;
    "avg", the mean; "tok+avg", the class token and the mean of the patches side by side, 2 D
    channels; "none", all of them.
    """

    name: Annotated[str, Name()]
    family: Family = "perception"  # whose files it reads
    image_size: Side  # pixels; the resolution of the stored positional embedding
    patch_size: Count  # pixels
    width: Size
    layers: Count
    heads: Count
    mlp_width: Size  # of the hidden layer, after the activation
    mean: tuple[Channel, Channel, Channel] = _HALF  # of the pixels, in [0, 1], that it was trained on
    std: tuple[Channel, Channel, Channel] = _HALF
    patch_bias: bool = False  # of the patch embedding
    class_token: bool = True
    register_tokens: Annotated[int, Range(0, 64)] = 0  # after the class token, without positions
    position_embedding: bool = True  # learned, added before the blocks
    rotary: Rotary = "pe"  # the table by which q and k are turned in every block
    key_bias: bool = True  # False: that of k is 0, and is not trained
    ln_pre: bool = True  # whether a norm precedes the blocks
    # gelu_tanh: GELU by its tanh formula; quick_gelu: x sigmoid(1.702 x); swiglu: silu(a) b with the
    # halves a, b of twice the hidden layer
    activation: Activation = "gelu"
    norm_eps: Annotated[float, Range(0, 1, above=True)] = 1e-5
    pooling: Pooling = "attn"
    out_dim: Size | None = None  # None: no projection
    ln_post: bool = True
    layer_scale: Annotated[float, Range(0, 1000)] | None = None  # initial gamma; None: no LayerScale
    pool_heads: Count = 8  # the reference uses 8 for every width
    pool_mlp_width: Size | None = None  # of the attention pooling's MLP; None: 4 width
    pool_activation: Literal["gelu", "gelu_tanh"] = "gelu"
    pool_norm_eps: Annotated[float, Range(0, 1, above=True)] = 1e-5
    resample: Resample = "official"
    resize: Literal["squash", "center"] = "squash"

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        _require_multiple("width", self.width, "heads", self.heads)
        if self.pooling == "attn":
            _require_multiple("width", self.width, "pool_heads", self.pool_heads)
        if self.pooling.startswith("tok") and not self.class_token:
            raise UserError(
                "bad config value",
                where="encoder.pooling",
                expected="attn or avg, as there is no class token",
                found=self.pooling,
                fix="correct the value",
            )
        if self.rotary == "pe" and self.register_tokens:
            raise UserError(
                "bad config value",
                where="encoder.register_tokens",
                expected="0 with rotary positions 'pe', which registers have none of",
                found=str(self.register_tokens),
                fix="correct the value",
            )
        if self.rotary and self.head_dim % 4:
            raise UserError(
                "bad config value",
                where="encoder.heads",
                expected="width / heads to be a multiple of 4, for rotary positions of two axes",
                found=f"{self.width} / {self.heads}",
                fix="correct the value",
            )
        self.check_image_size(self.image_size, where="encoder.image_size")

    def first(self, blocks: int, *, where: str) -> "VisionConfig":
        """Returns the encoder of the first blocks, with the final norm and the pooling; NAME-firstN.

        Raises:
          UserError: it has fewer blocks.
        """
        if blocks > self.layers:
            raise UserError(
                "more blocks than the variant has",
                where=where,
                expected=f"at most the {self.layers} of {self.name}",
                found=str(blocks),
                fix="correct the value; 0 keeps all",
            )
        if blocks == self.layers:
            return self
        return dataclasses.replace(self, name=f"{self.name}-first{blocks}", layers=blocks)

    def check_image_size(self, size: int, *, where: str) -> None:
        """Raises UserError unless images of `size` x `size` pixels are whole patches, and not too many."""
        patch = self.patch_size
        if size < patch or size % patch:
            below = max(size // patch, 1) * patch
            raise UserError(
                "image size is not a multiple of the patch size",
                where=where,
                expected=f"a multiple of {patch}",
                found=str(size),
                fix=f"set it to {below} or {below + patch}",
            )
        if size > min(patch * _MOST_GRID, MOST_PIXELS):
            most = min(patch * _MOST_GRID, MOST_PIXELS // patch * patch)
            raise UserError(
                "too large images",
                where=where,
                expected=f"at most {most}",
                found=str(size),
                fix=f"set it to {most}",
            )

    @property
    def published(self) -> str:
        """The name of the variant, without the suffix of `first`."""
        return re.sub(r"-first\d+$", "", self.name)

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches."""
        return int(self.class_token) + self.register_tokens

    @property
    def tokens(self) -> int:
        return self.tokens_on(None)

    def tokens_on(self, grid: tuple[int, int] | None) -> int:
        """Returns N, the number of tokens on a grid of (rows, columns) patches, by default the stored one."""
        rows, columns = grid or (self.grid, self.grid)
        return rows * columns + self.prefix

    @property
    def fc_width(self) -> int:
        """The number of outputs of a block's c_fc."""
        return gated_width(self.mlp_width, self.activation)

    @property
    def pool_hidden(self) -> int:
        """The width of the hidden layer of the attention pooling's MLP."""
        return self.pool_mlp_width or 4 * self.width

    @property
    def feature_width(self) -> int:
        """The number of channels of the pooled feature."""
        return self.width * (2 if self.pooling == "tok+avg" else 1)

    @property
    def centred(self) -> bool:
        """Whether the encoder reads pixels in [-1, 1] as they are."""
        return self.mean == self.std == _HALF

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, without those that 0.1 did not have where they are the Perception Encoder's.

        So the files and digests of its models are those of 0.1.
        """
        later = {field.name: field.default for field in dataclasses.fields(self) if field.name in _LATER}
        values = dataclasses.asdict(self).items()
        return {name: value for name, value in values if name not in later or value != later[name]}


def gated_width(mlp_width: int, activation: Activation) -> int:
    """Returns the outputs of c_fc for a hidden layer of mlp_width: twice as many for a gate."""
    return mlp_width * (2 if activation == "swiglu" else 1)


# Fields that the first files of configurations did not have: left out where they are the defaults.
_LATER = {
    "family",
    "mean",
    "std",
    "patch_bias",
    "register_tokens",
    "position_embedding",
    "rotary",
    "key_bias",
} | {"ln_pre", "activation", "norm_eps", "pool_mlp_width", "pool_activation", "resize", "pool_norm_eps"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text encoder: L blocks of width D over at most `context` ids.

    The defaults are the Perception Encoder's.

    Pooling is of the final tokens: "end", the end-of-text, which is the largest id; "last", the last token,
    so that texts are padded to the context.
    """

    context: Annotated[int, Range(2, 4096)]
    width: Size
    layers: Count
    heads: Count
    out_dim: Size
    vocab: Annotated[int, Range(2, 10**6)] = 49408
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    mlp_ratio: Annotated[float, Range(0, 64, above=True)] = 4.0  # of the hidden layer to the width
    norm_eps: Annotated[float, Range(0, 1, above=True)] = 1e-5
    causal: bool = True  # whether a token attends to those before it alone
    pooling: Literal["end", "last"] = "end"
    projection_bias: bool = False
    logit_bias: bool = False  # whether a bias is added to the logits, as the sigmoid loss needs it
    tokenizer: Literal["clip", "gemma"] = "clip"

    def __post_init__(self) -> None:
        check_fields(self, "text")
        _require_multiple("width", self.width, "heads", self.heads)

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How an encoder is computed; it changes speed and memory, never the parameters."""

    # type of activations; norms, softmax and losses stay float32
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    # what the backward pass recomputes to save memory: none, attention, elementwise, dots or full
    remat: str = "none"
    # blocks per iteration of the scan over layers; None: all on CPUs, see choice.blocks_at_once, else 1
    unroll: Count | None = None
    # rows per device that a block computes at once in training; 0: what the chip's own memory holds, or all
    block_rows: Annotated[int, Range(0, 2**16)] = 0
    # auto: pallas on TPUs, cudnn on GPUs with 16 bits, bmm on CPUs, else xla; pallas_interpret: for tests
    attention: Literal["auto", "xla", "bmm", "cudnn", "pallas", "pallas_interpret"] = "auto"
    # of float32 products, see jax.default_matmul_precision; "highest" for parity
    matmul_precision: Precision = "default"

    def __post_init__(self) -> None:
        check_fields(self, "compute")

    @property
    def recompute(self) -> bool:
        """Whether the backward pass recomputes attention's weights."""
        return self.remat == "attention"


def _require_multiple(name: str, value: int, other: str, divisor: int) -> None:
    if value % divisor:
        raise UserError(
            "bad config value",
            where=f"encoder.{name}",
            expected=f"a multiple of {other} = {divisor}",
            found=str(value),
            fix="correct the value",
        )


_FAMILIES = (perception, dinov2, clip, siglip2, dinov3)
VISION = {
    name: VisionConfig(name=name, **fields) for family in _FAMILIES for name, fields in family.VISION.items()
}
TEXT = {name: TextConfig(**fields) for family in _FAMILIES for name, fields in family.TEXT.items()}
# timm's names, with their tags.
TIMM_NAMES = {name: variant for family in _FAMILIES for name, variant in family.TIMM_NAMES.items()}
# Names on the hub and elsewhere.
_OTHER_NAMES = {name: variant for family in _FAMILIES for name, variant in family.OTHER_NAMES.items()}
_TAGS = tuple(dict.fromkeys(family.TAG for family in _FAMILIES))


def vision_config(name: str) -> VisionConfig:
    """Returns a variant by its name, by timm's with or without the tag, or by that of its hub repository.

    Raises:
      UserError: no such variant.
    """
    plain = name.removeprefix("timm/")
    for timm_name in (plain, *(f"{plain}.{tag}" for tag in _TAGS)):
        if timm_name in TIMM_NAMES:
            return VISION[TIMM_NAMES[timm_name]]
    known = _OTHER_NAMES.get(name, name)
    if known not in VISION:
        near = difflib.get_close_matches(name, VISION, n=4, cutoff=0.0)
        raise UserError(
            "unknown variant",
            where="model.variant",
            expected=f"{', '.join(near)}, or another of the {len(VISION)} in docs/backbones.md",
            found=repr(name),
            fix=nearest(name, VISION, otherwise="use a name of that page, or its timm name"),
        )
    return VISION[known]
