import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.checkpoints import leaves
from softbio_jax.runs import parallel

KINDS = {"columns": leaves._columns, "mix": lambda array: leaves._text(leaves._mix(array))}


def _array(dtype, shape=(5, 8, 7)):
    values = np.random.default_rng(0).integers(0, 2, size=(*shape, 4), dtype=np.uint8)
    if dtype == "bool":
        return values[..., 0].astype(bool)
    raw = np.random.default_rng(1).bytes(int(np.prod(shape)) * jnp.dtype(dtype).itemsize)
    return np.frombuffer(raw, jnp.dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 8, 7), (3, 40, 64), (17, 1024, 16)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "bool"])
def test_every_flipped_bit_is_seen(kind, dtype, shape):
    array, take = _array(dtype, shape), KINDS[kind]
    before, draw = take(array), random.Random(3)
    for _ in range(50):
        content = bytearray(array.tobytes())
        place = draw.randrange(len(content)) * 8 + (0 if dtype == "bool" else draw.randrange(8))
        content[place // 8] ^= 1 << place % 8
        assert take(np.frombuffer(content, array.dtype).reshape(array.shape)) != before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[::-1],
        lambda a: a.swapaxes(0, 1).reshape(a.shape),
        lambda a: -a,
        lambda a: np.roll(a, 1, axis=-1),
        lambda a: a[:, ::-1],
        np.zeros_like,
    ],
)
def test_values_in_other_places_are_seen(kind, change):
    array = np.random.default_rng(0).standard_normal((144, 144, 16), np.float32)
    assert KINDS[kind](np.ascontiguousarray(change(array))) != KINDS[kind](array)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_of_signs_is_seen(kind):
    array = np.random.default_rng(0).standard_normal((40, 64), np.float32)
    for row in range(4):
        other = array.copy()
        other[row, [3, 40]] *= -1
        assert KINDS[kind](other) != KINDS[kind](array)


@pytest.mark.parametrize("spec", [P(), P("data"), P(None, "data"), P("data", None, None)])
def test_digests_of_devices_do_not_depend_on_the_layout(spec):
    array = _array("float32", (8, 16, 3))
    placed = jax.device_put(array, NamedSharding(parallel.make_mesh(), spec))
    assert KINDS["mix"](placed) == KINDS["mix"](array)
    assert leaves.again(placed, "columns:") == KINDS["columns"](array)


def test_a_digest_is_that_of_the_values_before_they_are_given_away():
    state = {"a": jnp.arange(4096, dtype=jnp.float32)}
    expected = leaves.describe(jax.device_get(state))["a"].to_json()
    described = leaves.describe(state)["a"]
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
    assert described.to_json() == expected
    assert expected["shape"] == [4096] and expected["dtype"] == "float32"


def test_arrays_on_other_devices_are_digested_there(monkeypatch):
    monkeypatch.setattr(leaves, "_on_host", lambda leaf: False)
    state = {"a": jnp.arange(64, dtype=jnp.float32), "b": jnp.ones(3, bool)}
    described = {path: leaf.to_json() for path, leaf in leaves.describe(state).items()}
    for path, leaf in described.items():
        assert leaf["digest"].startswith("mix:")
        assert leaves.again(state[path], leaf["digest"]) == leaf["digest"]
