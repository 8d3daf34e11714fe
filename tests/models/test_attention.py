"""Attention in one pass against `jax.nn.dot_product_attention`, emulated."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from softbio_jax.models.attention.attend import cross_attention, self_attention
from softbio_jax.models.attention.choice import Shape, choose
from softbio_jax.models.attention.layout import Layout, on_chip_bytes
from softbio_jax.models.blocks import REMAT_POLICIES
from softbio_jax.models.config import TEXT, VISION, ComputeConfig
from softbio_jax.models.positions import Rotation, angles, rotate, rotation
from softbio_jax.runs import parallel
from tests.adapters import towers
from tests.compiling import quick_jit

KERNEL = ComputeConfig(attention="pallas_interpret")
XLA = ComputeConfig(attention="xla")
BMM = ComputeConfig(attention="bmm")


def shapes(*, rotary):
    """Every published encoder's attention, once: (heads, head_dim, side of the grid, tokens before it)."""
    found = {}
    for config in VISION.values():
        if not config.name.startswith("tiny-") and config.rotary == rotary:
            key = (config.heads, config.head_dim, config.grid, config.prefix)
            found.setdefault(key, config.name)
    return [pytest.param(*key, id=name) for key, name in found.items()]


def drawn(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def turned(grid, head_dim, class_token):
    angle = angles((grid, grid), head_dim, class_token=class_token)
    return Rotation(jnp.cos(angle), jnp.sin(angle))


def passes(attention, inputs, dout):
    """Output and gradients."""

    def run(inputs, dout):
        out, pull = jax.vjp(attention, *inputs)
        return out, *pull(dout.astype(out.dtype))

    return [np.asarray(x, np.float64) for x in quick_jit(run)(inputs, dout)]


def distance(ours, wanted):
    """Relative; that of nothing to nothing is 0."""
    size = np.linalg.norm(np.ravel(wanted))
    return float(np.linalg.norm(np.ravel(ours) - np.ravel(wanted)) / size) if size else float(np.any(ours))


def check_equal(ours, wanted, most=1e-6):
    assert len(ours) == len(wanted)
    assert [distance(a, b) <= most for a, b in zip(ours, wanted, strict=True)] == [True] * len(ours), [
        distance(a, b) for a, b in zip(ours, wanted, strict=True)
    ]


def plain(q, k, v, *, causal=False, rotation=None):
    """The library's attention of (B, N, K, head_dim), heads merged afterwards."""
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="xla")
    return out.reshape(*out.shape[:2], -1)


def plain_packed(qkv, *, heads, **kw):
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in jnp.split(qkv, 3, axis=-1))
    return plain(q, k, v, **kw)


def compare(heads, head_dim, tokens, *, batch=1, causal=False, rotation=None):
    width = heads * head_dim
    qkv, dout = drawn(batch, tokens, 3 * width), drawn(batch, tokens, width, seed=1)
    kw = {"heads": heads, "causal": causal, "rotation": rotation}
    ours = passes(functools.partial(self_attention, compute=KERNEL, **kw), (qkv,), dout)
    check_equal(ours, passes(functools.partial(plain_packed, **kw), (qkv,), dout))


@pytest.mark.long
@pytest.mark.parametrize(("heads", "head_dim", "grid", "class_token"), shapes(rotary=True))
def test_every_vision_encoder(heads, head_dim, grid, class_token):
    compare(heads, head_dim, grid**2 + class_token, rotation=turned(grid, head_dim, class_token))


@pytest.mark.parametrize(
    ("variant", "grid"),
    [
        ("tiny-dinov3", (3, 5)),
        *(pytest.param(f"dinov3-{n}", (16, 16), marks=pytest.mark.long) for n in ("s16", "l16", "h16plus")),
        pytest.param("dinov3-s16", (9, 14), marks=pytest.mark.long),
    ],
)
def test_halves_that_turn_together(variant, grid):
    config = VISION[variant]
    turn = rotation(config, grid)
    assert turn.reach == config.head_dim // 2
    compare(config.heads, config.head_dim, config.tokens_on(grid), rotation=turn)


@pytest.mark.long
@pytest.mark.parametrize(("heads", "head_dim", "grid", "prefix"), shapes(rotary=False))
def test_every_vision_encoder_without_rotation(heads, head_dim, grid, prefix):
    compare(heads, head_dim, grid**2 + prefix)


# The quick ones: two heads a program, four, one; one block of queries, several, and a remainder.
@pytest.mark.parametrize(
    ("heads", "head_dim", "grid", "class_token"), [(4, 64, 12, True), (4, 96, 5, False), (3, 64, 7, True)]
)
def test_a_grid_of_tokens(heads, head_dim, grid, class_token):
    rotation = turned(grid, head_dim, class_token)
    compare(heads, head_dim, grid**2 + class_token, batch=2, rotation=rotation)


@pytest.mark.parametrize("head_dim", [80, *(pytest.param(d, marks=pytest.mark.long) for d in (72, 88))])
def test_heads_that_do_not_divide_a_register(head_dim):
    heads = 8 if head_dim == 80 else 16
    compare(heads, head_dim, 26, rotation=turned(5, head_dim, True))


@pytest.mark.parametrize("tokens", [2, 129, 130, 257])
def test_any_number_of_tokens(tokens):
    compare(2, 64, tokens)


@pytest.mark.parametrize("name", ["PE-Core-T16-384", "PE-Core-L14-336", "PE-Core-G14-448"])
def test_text_is_causal(name):
    config = TEXT[name]
    compare(config.heads, config.width // config.heads, config.context, causal=True)


@pytest.mark.parametrize(("heads", "head_dim", "tokens"), [(8, 128, 65), (8, 24, 17), (16, 72, 36)])
def test_one_query_as_in_attention_pooling(heads, head_dim, tokens):
    width = heads * head_dim
    q, kv, dout = drawn(2, 1, width), drawn(2, tokens, 2 * width, seed=1), drawn(2, 1, width, seed=2)

    def wanted(q, kv):
        k, v = jnp.split(kv, 2, axis=-1)
        return plain(*(x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v)))

    ours = passes(functools.partial(cross_attention, heads=heads, compute=KERNEL), (q, kv), dout)
    check_equal(ours, passes(wanted, (q, kv), dout))


def test_a_long_text_is_causal_in_every_block_of_queries():
    compare(1, 64, 200, causal=True)


def test_a_task_axis_is_more_examples():
    qkv, dout = drawn(3, 2, 17, 3 * 128), drawn(3, 2, 17, 128, seed=1)
    kw = {"heads": 2, "rotation": turned(4, 64, True)}
    ours = passes(functools.partial(self_attention, compute=KERNEL, **kw), (qkv,), dout)
    alone = [passes(functools.partial(plain_packed, **kw), (qkv[t],), dout[t]) for t in range(len(qkv))]
    check_equal(ours, [np.stack(x) for x in zip(*alone, strict=True)])


@pytest.mark.parametrize("causal", [False, True])
def test_in_16_bits_it_is_as_near_to_the_truth_as_the_library(causal):
    heads, grid = 2, 12
    rotation = turned(grid, 64, True)
    qkv = 2 * drawn(2, grid**2 + 1, 3 * 64 * heads)  # weights that are far from uniform
    dout = drawn(2, grid**2 + 1, 64 * heads, seed=1)
    kw = {"heads": heads, "rotation": rotation, "causal": causal}
    qkv = qkv.astype(jnp.bfloat16)
    truth = passes(functools.partial(plain_packed, **kw), (qkv.astype(jnp.float32),), dout)
    ours = passes(functools.partial(self_attention, compute=KERNEL, **kw), (qkv,), dout)
    library = passes(functools.partial(plain_packed, **kw), (qkv,), dout)
    for a, b, t in zip(ours, library, truth, strict=True):
        assert distance(a, t) <= 1.05 * distance(b, t)


def model_passes(method, compute, mesh=None, microbatches=1):
    """Features and the gradient of their sine, jitted as a train step is: sharded examples, scanned parts."""
    model = towers.model(towers.METHODS[method], compute=compute)
    params = towers.stirred(towers.variables(model)["params"])
    x = towers.images(model.config, 16)

    def features(params, x):
        return model.apply({"params": params}, x, method="features")

    def run(params, x):
        if microbatches == 1:
            found = features(params, x)
        else:
            parts = x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)
            found = jax.lax.map(lambda part: jax.checkpoint(features)(params, part), parts)
            found = jax.tree.map(lambda f: f.swapaxes(0, 1).reshape(-1, f.shape[-1]), found)
        return sum(jnp.sum(jnp.sin(f)) for f in found.values()), found

    step = quick_jit(jax.grad(run, has_aux=True))
    if mesh is None:
        return step(params, x)
    params = parallel.shard_weights(params, mesh)
    x = jax.device_put(x, parallel.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        return step(params, x)


def check_near(ours, wanted):
    found = jax.tree.leaves(jax.tree.map(distance, ours, wanted))
    assert max(found) <= 1e-5


@functools.cache
def on_one_device(method):
    return model_passes(method, dataclasses.replace(XLA, matmul_precision="highest"))


def on_meshes():
    """Every method with every policy and layout, and every policy with every layout."""
    policies = [name for name in REMAT_POLICIES if name != "attention"]  # which changes nothing of a kernel
    for first, method in enumerate(("lora", "mtlora", "mtlora_task")):
        for number, remat in enumerate(policies, first):
            yield pytest.param(method, remat, *((1, 1), (2, 2))[number % 2], marks=pytest.mark.long)


@pytest.mark.parametrize(("method", "remat", "fsdp", "microbatches"), [("lora", "none", 2, 1), *on_meshes()])
def test_a_model_on_a_mesh_is_that_on_one_device(method, remat, fsdp, microbatches):
    compute = dataclasses.replace(KERNEL, remat=remat, matmul_precision="highest")
    mesh = parallel.make_mesh(fsdp=fsdp)
    check_near(model_passes(method, compute, mesh, microbatches), on_one_device(method))


@pytest.mark.parametrize("fsdp", [1, 2])
def test_examples_on_a_mesh(fsdp):
    attention = functools.partial(self_attention, heads=2, compute=KERNEL, rotation=turned(4, 64, True))
    inputs, dout = (drawn(8, 17, 3 * 128),), drawn(8, 17, 128, seed=1)
    wanted = passes(attention, inputs, dout)
    mesh = parallel.make_mesh(fsdp=fsdp)
    inputs, dout = jax.device_put((inputs, dout), parallel.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        check_equal(passes(attention, inputs, dout), wanted)


def test_every_device_keeps_its_own_examples():
    mesh = parallel.make_mesh(fsdp=2)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    qkv = jax.ShapeDtypeStruct((16, 17, 3 * 128), jnp.float32, sharding=rows)
    with jax.set_mesh(mesh):
        compiled = jax.jit(functools.partial(self_attention, heads=2, compute=KERNEL)).lower(qkv).compile()
    assert compiled.output_shardings.is_equivalent_to(rows, 3)
    assert "all-gather" not in compiled.as_text()


def test_examples_that_the_mesh_does_not_divide():
    qkv = drawn(3, 17, 3 * 128)
    with jax.set_mesh(parallel.make_mesh()):
        ours = jax.jit(functools.partial(self_attention, heads=2, compute=KERNEL))(qkv)
    np.testing.assert_allclose(ours, self_attention(qkv, heads=2, compute=XLA), rtol=1e-5, atol=1e-6)


def test_nothing_but_the_product_is_saved_for_the_backward_pass():
    qkv = drawn(1, 17, 3 * 128)
    _, pull = jax.vjp(functools.partial(self_attention, heads=2, compute=KERNEL), qkv)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) == qkv.size


class TestProducts:
    """The attention of CPUs against the library's."""

    @pytest.mark.parametrize("remat", ["none", "attention"])
    @pytest.mark.parametrize(
        ("heads", "head_dim", "tokens", "causal"), [(3, 64, 50, False), (2, 96, 26, False), (2, 64, 33, True)]
    )
    def test_output_and_gradients(self, heads, head_dim, tokens, causal, remat):
        width = heads * head_dim
        qkv, dout = drawn(2, tokens, 3 * width), drawn(2, tokens, width, seed=1)
        kw = {"heads": heads, "causal": causal}
        if not causal:
            kw["rotation"] = turned(round(tokens**0.5), head_dim, math.isqrt(tokens) ** 2 < tokens)
        compute = dataclasses.replace(BMM, remat=remat)
        ours = passes(functools.partial(self_attention, compute=compute, **kw), (qkv,), dout)
        check_equal(ours, passes(functools.partial(plain_packed, **kw), (qkv,), dout))

    def test_one_query(self):
        q, kv, dout = drawn(2, 1, 128), drawn(2, 50, 256, seed=1), drawn(2, 1, 128, seed=2)
        ours, wanted = (
            passes(functools.partial(cross_attention, heads=2, compute=compute), (q, kv), dout)
            for compute in (BMM, XLA)
        )
        check_equal(ours, wanted)

    def test_a_task_is_as_alone_to_the_last_bit(self):
        qkv = drawn(3, 2, 17, 3 * 128)
        together = jax.jit(functools.partial(self_attention, heads=2, compute=BMM))
        alone = [together(tokens) for tokens in qkv]
        np.testing.assert_array_equal(together(qkv), np.stack(alone))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_in_16_bits_it_is_as_near_to_the_truth_as_the_library(self, dtype):
        qkv, dout = drawn(2, 50, 3 * 128), drawn(2, 50, 128, seed=1)
        kw = {"heads": 2, "rotation": turned(7, 64, True)}
        wanted = passes(functools.partial(plain_packed, **kw), (qkv,), dout)
        errors = []
        for compute in (BMM, XLA):
            run = functools.partial(self_attention, compute=compute, **kw)
            found = passes(run, (qkv.astype(dtype),), dout.astype(dtype))
            errors.append([distance(a, b) for a, b in zip(found, wanted, strict=True)])
        assert all(ours <= 1.1 * library for ours, library in zip(*errors, strict=True)), errors

    def test_large_logits_do_not_overflow(self):
        qkv = 40 * drawn(1, 17, 3 * 128)
        ours, wanted = (self_attention(qkv, heads=2, compute=compute) for compute in (BMM, XLA))
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)

    def test_weights_are_kept_only_where_they_are_not_recomputed(self):
        qkv, kept = drawn(1, 40, 3 * 128), {}
        for remat in ("none", "attention"):
            compute = dataclasses.replace(BMM, remat=remat)
            _, pull = jax.vjp(functools.partial(self_attention, heads=2, compute=compute), qkv)
            kept[remat] = [leaf.shape for leaf in jax.tree.leaves(pull)]
        assert (2, 40, 40) in kept["none"] and (2, 40, 40) not in kept["attention"]


class TestChoice:
    """What "auto" means."""

    @dataclasses.dataclass(frozen=True)
    class Device:
        platform: str
        device_kind: str = ""
        compute_capability: str = "8.0"
        process_index: int = 0

    L14 = Shape(16, 64, 577, 577)

    @pytest.fixture(autouse=True)
    def _compiles(self, monkeypatch):
        self.why = ""
        monkeypatch.setattr("softbio_jax.models.attention.choice._refused", lambda *_: self.why)

    def chosen(self, device, dtype="bfloat16", shape=L14, attention="auto"):
        return choose(attention, dtype=dtype, shape=shape, devices=[device])

    @pytest.mark.parametrize(
        ("device", "dtype", "name"),
        [
            (Device("tpu", "TPU v5 lite"), "bfloat16", "pallas"),
            (Device("tpu", "TPU v4"), "bfloat16", "pallas"),
            (Device("tpu", "TPU v5 lite"), "float32", "pallas"),
            (Device("tpu", "TPU v5 lite"), "float16", "xla"),
            (Device("gpu", "NVIDIA A100"), "bfloat16", "cudnn"),
            (Device("gpu", "NVIDIA A100"), "float16", "cudnn"),
            (Device("gpu", "NVIDIA A100"), "float32", "xla"),
            (Device("gpu", "Tesla T4", "7.5"), "float16", "xla"),
            (Device("cpu"), "bfloat16", "bmm"),
        ],
    )
    def test_by_device_and_type(self, device, dtype, name):
        assert self.chosen(device, dtype).name == name

    @pytest.mark.parametrize(
        ("device", "shape", "name"),
        [
            (Device("gpu"), Shape(8, 128, 50, 50), "cudnn"),
            (Device("gpu"), Shape(8, 192, 50, 50), "xla"),
            (Device("gpu"), Shape(8, 12, 50, 50), "xla"),
            (Device("gpu"), Shape(8, 128, 1, 50), "xla"),
            (Device("tpu", "TPU v4"), Shape(16, 96, 1024, 1024), "xla"),
            (Device("tpu", "TPU v5 lite"), Shape(16, 96, 1024, 1024), "pallas"),
            (Device("tpu", "TPU v5 lite"), Shape(16, 64, 10**5, 10**5), "xla"),
        ],
    )
    def test_by_shape(self, device, shape, name):
        assert self.chosen(device, shape=shape).name == name

    def test_a_compiler_that_refuses_the_kernel(self):
        self.why = "pallas was refused: libtpu is too old"
        assert self.chosen(self.Device("tpu")) == ("xla", self.why)

    @pytest.mark.parametrize("name", ["xla", "bmm", "cudnn", "pallas", "pallas_interpret"])
    def test_what_was_asked_for_is_taken(self, name):
        assert self.chosen(self.Device("tpu"), attention=name).name == name


# 16 heads of 72 channels fill registers only together; there XLA's attention is taken.
TOO_LARGE = ("siglip2-so400m14-378", "siglip2-so400m16-512")


@pytest.mark.parametrize(
    "config", [c for c in VISION.values() if not c.name.startswith("tiny-")], ids=lambda c: c.name
)
def test_which_encoders_fit_the_vector_memory_of_a_v5p(config):
    layout = Layout(config.heads, config.head_dim, False, None, False)
    needed = on_chip_bytes(layout, config.tokens, config.tokens, jnp.bfloat16)
    assert (needed < 2**26) == (config.name not in TOO_LARGE)
