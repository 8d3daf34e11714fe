"""SigLIP 2's original files: names, shapes and function of big_vision, from a Flax model of its layout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import formats, ladder, stacking
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.text import TextEncoder
from softbio_jax.params import flatten, unflatten
from tests.interop.test_families import same_bits, write

CONFIG, WORDS = VISION["tiny-siglip2"], TEXT["tiny-siglip2"]


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))  # modules are numbered as they are made
        return nn.Dense(x.shape[-1])(y)


class Encoder(nn.Module):
    layers: int
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        for i in range(self.layers):
            x = Block(self.heads, self.hidden, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class Block(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y)
        return x + MlpBlock(self.hidden)(nn.LayerNorm()(x))


class MAPHead(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.zeros, (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = nn.MultiHeadDotProductAttention(self.heads)(probe, x)
        return (x + MlpBlock(self.hidden)(nn.LayerNorm()(x)))[:, 0]


class Image(nn.Module):
    @nn.compact
    def __call__(self, images):
        c, side = CONFIG, (CONFIG.patch_size,) * 2
        x = nn.Conv(c.width, side, strides=side, padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, c.width)
        x = x + self.param("pos_embedding", nn.initializers.zeros, (1, *x.shape[1:]))
        x = Encoder(c.layers, c.heads, c.mlp_width, name="Transformer")(x)
        return MAPHead(c.heads, c.mlp_width)(x)


class Text(nn.Module):
    @nn.compact
    def __call__(self, ids):
        c = WORDS
        x = nn.Embed(c.vocab, c.width)(ids)
        x = x + self.param("pos_embedding", nn.initializers.zeros, (1, *x.shape[1:]))
        x = Encoder(c.layers, c.heads, c.mlp_width)(x)
        return nn.Dense(c.out_dim, name="head")(x[:, -1])


class Both(nn.Module):
    @nn.compact
    def __call__(self, images, ids):
        t, b = (self.param(name, nn.initializers.zeros, (1,)) for name in ("t", "b"))
        return Image(name="img")(images), Text(name="txt")(ids), t, b


@pytest.fixture(scope="module")
def theirs():
    """Names and values of a checkpoint, and the embeddings that its model computes."""
    images = named_uniform("big_vision", (2, CONFIG.image_size, CONFIG.image_size, 3))
    ids = (np.arange(2 * WORDS.context).reshape(2, -1) * 7 % WORDS.vocab).astype(np.int32)
    shapes = jax.eval_shape(lambda: Both().init(jax.random.key(0), images, ids))["params"]
    flat = {key: np.zeros(leaf.shape, np.float32) for key, leaf in flatten(shapes).items()}
    arrays = named_state({key: array.shape for key, array in flat.items()})
    image, text, _, _ = Both().apply({"params": unflatten(arrays)}, images, ids)
    return (
        {f"params/{key}": array for key, array in arrays.items()},
        images,
        ids,
        np.asarray(image),
        np.asarray(text),
    )


def save(path, arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def test_the_embeddings_are_those_of_the_original_layout(theirs, tmp_path):
    arrays, images, ids, image, text = theirs
    state = formats.read(save(tmp_path / "a.npz", arrays), config=CONFIG)
    assert state.keys() == formats.official_shapes(CONFIG.name, text=True).keys()
    np.testing.assert_allclose(ladder.vision_rungs(CONFIG, state, images)["pooled"], image, atol=2e-5)
    named = OFFICIAL.forward({key: array for key, array in state.items() if not key.startswith("visual.")})
    params = unflatten(stacking.stack(named))["text"]
    ours = TextEncoder(WORDS).apply({"params": params}, ids)
    np.testing.assert_allclose(ours, text, atol=2e-5)
    assert state["logit_scale"] == arrays["params/t"][0] and state["logit_bias"] == arrays["params/b"][0]


def stacked(arrays, encoder):
    """The blocks of an encoder as one array each, as a scanned model saves them."""
    prefix = f"params/{encoder}/encoderblock_"
    blocks = {key: array for key, array in arrays.items() if key.startswith(prefix)}
    names = sorted({key.removeprefix(prefix).partition("/")[2] for key in blocks})
    count = 1 + max(int(key.removeprefix(prefix).partition("/")[0]) for key in blocks)
    joined = {
        f"params/{encoder}/encoderblock/{name}": np.stack(
            [blocks[f"{prefix}{i}/{name}"] for i in range(count)]
        )
        for name in names
    }
    return {key: array for key, array in arrays.items() if key not in blocks} | joined


def test_stacked_blocks_and_names_without_params_are_the_same_weights(theirs, tmp_path):
    arrays = theirs[0]
    plain = formats.read(save(tmp_path / "a.npz", arrays), config=CONFIG)
    scanned = stacked(stacked(arrays, "img/Transformer"), "txt/Encoder_0")
    bare = {key.removeprefix("params/"): array for key, array in scanned.items()}
    assert len(bare) < len(arrays)
    assert same_bits(formats.read(save(tmp_path / "b.npz", bare), config=CONFIG), plain)
    image = {key: array for key, array in arrays.items() if key.startswith("params/img/")}
    alone = formats.read(save(tmp_path / "c.npz", image), config=CONFIG)
    assert alone.keys() == formats.official_shapes(CONFIG.name, text=False).keys()


def test_both_directions_are_inverse(theirs, tmp_path):
    state = formats.read(save(tmp_path / "a.npz", theirs[0]), config=CONFIG)
    format_ = formats.of(CONFIG, "big_vision")
    there = format_.from_official(state)
    assert same_bits(format_.to_official(there), state)
    assert there.keys() == {key.removeprefix("params/") for key in theirs[0]}


def test_bfloat16_is_read_from_the_bytes_that_numpy_writes(theirs, tmp_path):
    narrow = {key: array.astype(ml_dtypes.bfloat16) for key, array in theirs[0].items()}
    read = formats.read(save(tmp_path / "a.npz", narrow), config=CONFIG)
    assert {array.dtype.name for array in read.values()} == {"bfloat16"}
    wide = formats.read(save(tmp_path / "b.npz", theirs[0]), config=CONFIG)
    np.testing.assert_array_equal(read["text_projection"], wide["text_projection"].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a | {"params/img/embedding/kernel": a["params/img/embedding/kernel"].reshape(-1, 32)},
            "embedding",
        ),
        (lambda a: {k: v for k, v in a.items() if "encoderblock_2" not in k}, "encoderblock_2"),
        (lambda a: a | {"params/img/cls": np.zeros((1, 1, 32), np.float32)}, "img/cls"),
        (lambda a: a | {"params/t": np.full(1, np.nan, np.float32)}, "not finite|NaN|nan"),
        (lambda a: a | {"params/t": np.array([None], object)}, "unreadable numpy archive"),
    ],
)
def test_other_names_shapes_and_values_are_named(theirs, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        formats.read(save(tmp_path / "a.npz", change(theirs[0])), config=CONFIG)


def test_another_family_and_a_cut_file_are_named(theirs, tmp_path):
    path = save(tmp_path / "a.npz", theirs[0])
    with pytest.raises(UserError, match=r"another family given for tiny-dinov2.*siglip2"):
        formats.read(path, config=VISION["tiny-dinov2"])
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match=r"a\.npz"):
        load_arrays(path)


def test_it_is_only_read(theirs, tmp_path):
    state = formats.read(save(tmp_path / "a.npz", theirs[0]), config=CONFIG)
    with pytest.raises(UserError, match="a format that is only read"):
        write(tmp_path / "b.safetensors", state, CONFIG, "big_vision")
