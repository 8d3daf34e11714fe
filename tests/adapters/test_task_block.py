"""MTLoRA's block and pooling against their closed form, written out in numpy."""

import math

import jax
import numpy as np
import pytest

from softbio_jax.adapters import methods
from softbio_jax.models import positions
from softbio_jax.params import flatten
from tests.adapters import towers
from tests.compiling import quick_jit

_erf = np.vectorize(math.erf)


def gelu(x):
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sdpa(q, k, v, heads, turn=None):
    """(B, N, D) in and out."""
    q, k, v = (t.reshape(*t.shape[:-1], heads, -1).swapaxes(1, 2) for t in (q, k, v))
    if turn is not None:
        q, k = rotate(q, turn), rotate(k, turn)
    out = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) @ v
    return out.swapaxes(1, 2).reshape(out.shape[0], out.shape[2], -1)


def rotate(x, turn):
    flipped = np.stack([-x[..., 1::2], x[..., 0::2]], -1).reshape(x.shape)
    return x * np.cos(turn) + flipped * np.sin(turn)


def low(x, p, t, scale):
    """s x A_t B_t, projections side by side."""
    a, b = p["tasks"]["lora_a"][t], p["tasks"]["lora_b"][t]
    return np.concatenate([scale * x @ a_p @ b_p for a_p, b_p in zip(a, b, strict=True)], -1)


def frozen_block(x, p, heads, turn):
    n = layer_norm(x, p["ln_1"])
    attn = sdpa(*np.split(dense(n, p["attn"]["qkv"]), 3, -1), heads, turn)
    middle = x + dense(attn, p["attn"]["out"])
    hidden = dense(layer_norm(middle, p["ln_2"]), p["mlp"]["c_fc"])
    return middle, hidden, middle + dense(gelu(hidden), p["mlp"]["c_proj"])


def closed_form(x, p, t, heads, turn, scale):
    """y_t = Block(x) + Bo Ao attn_t + B2 A2 gelu(h_s + B1 A1 LN2(x_t))."""
    middle, hidden, plain = frozen_block(x, p, heads, turn)
    n = layer_norm(x, p["ln_1"])
    qkv = dense(n, p["attn"]["qkv"]) + low(n, p["attn"]["qkv"], t, scale)
    side = low(sdpa(*np.split(qkv, 3, -1), heads, turn), p["attn"]["out"], t, scale)
    own = hidden + low(layer_norm(middle + side, p["ln_2"]), p["mlp"]["c_fc"], t, scale)
    return plain + side + low(gelu(own), p["mlp"]["c_proj"], t, scale)


def paper_form(x, p, t, heads, turn, scale):
    """Shared adapters on the shared stream; a task's on out, c_fc, c_proj beside the kernels."""

    def shared(x, q):
        return dense(x, q) + scale * x @ q["lora_a"] @ q["lora_b"]

    attn = sdpa(*np.split(shared(layer_norm(x, p["ln_1"]), p["attn"]["qkv"]), 3, -1), heads, turn)
    out, fc, proj = p["attn"]["out"], p["mlp"]["c_fc"], p["mlp"]["c_proj"]
    stream = x + shared(attn, out)
    own = x + dense(attn, out) + low(attn, out, t, scale)
    read = layer_norm(stream, p["ln_2"])
    own_hidden = dense(read, fc) + low(layer_norm(own, p["ln_2"]), fc, t, scale)
    hidden = shared(read, fc)
    return own + dense(gelu(hidden), proj) + low(gelu(own_hidden), proj, t, scale)


def task_specific_block(x, p, t, heads, turn, scale):
    """A plain block whose every kernel is W + s A_t B_t."""
    return frozen_block(x, merged_layers(p, t, scale), heads, turn)[-1]


def merged_layers(p, t, scale):
    if "tasks" in p:
        eye = np.eye(p["kernel"].shape[0])
        return {"kernel": p["kernel"] + low(eye, p, t, scale), "bias": p["bias"]}
    return {k: merged_layers(v, t, scale) if isinstance(v, dict) else v for k, v in p.items()}


def pooled(tokens, p, t, scale):
    tokens = np.asarray(tokens, np.float64)
    if "task_probe" in p:
        probe = p["task_probe"][t]
        p = merged_layers({k: v for k, v in p.items() if k != "task_probe"}, t, scale)
    else:
        probe = p["probe"]
    q = dense(np.broadcast_to(probe, (len(tokens), *probe.shape[1:])), p["attn"]["q"])
    k, v = np.split(dense(tokens, p["attn"]["kv"]), 2, -1)
    x = dense(sdpa(q, k, v, 8), p["attn"]["out"])
    hidden = gelu(dense(layer_norm(x, p["layernorm"]), p["mlp"]["c_fc"]))
    return (x + dense(hidden, p["mlp"]["c_proj"]))[:, 0]


FORMS = {
    "thesis": (methods.mtlora(towers.DORA), closed_form),
    "task": (methods.mtlora(towers.LORA, base_input="task"), task_specific_block),
    "paper": (methods.mtlora(towers.LORA, placement="paper"), paper_form),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_block_and_the_pooling_are_their_closed_form(name):
    method, form = FORMS[name]
    model = towers.model(method)
    c, x = model.config, towers.images(model.config)
    variables = towers.variables(model)
    params = towers.stirred(variables["params"], size=0.3)

    ours = quick_jit(lambda p: model.apply({"params": p}, x, method="features"))(params)

    # The blocks below, by the adapted model itself; what they do is tested elsewhere.
    captured = quick_jit(
        lambda p: model.apply({"params": p}, x, method=lambda m, x: m.encoder(x, capture=True)[1]["blocks"])
    )(params)
    assert captured.shape[0] == c.layers - 1

    p = jax.tree.map(lambda leaf: np.float64(leaf), params)
    tail = jax.tree.map(lambda leaf: leaf[0], p["encoder"]["tail"])
    turn = positions.angles((c.grid, c.grid), c.head_dim, class_token=True)
    for t, task in enumerate(towers.TASK_SPECS):
        y = form(np.float64(captured[-1]), tail, t, c.heads, turn, towers.LORA.scale)
        feature = pooled(layer_norm(y, p["encoder"]["ln_post"]), p["pool"], t, towers.LORA.scale)
        np.testing.assert_allclose(ours[task.name], feature, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["mtlora", "mtlora_task", "mtlora_paper"])
def test_tasks_differ_once_stirred_and_only_by_their_own(name):
    model = towers.model(towers.METHODS[name])
    x, params = towers.images(model.config), towers.stirred(towers.variables(model)["params"])
    run = quick_jit(lambda p: model.apply({"params": p}, x, method="features"))
    before = run(params)
    assert not np.allclose(before["age"], before["gender"], atol=1e-3)
    moved = {k: np.array(v) for k, v in flatten(params).items()}
    leaf = moved["encoder/tail/mlp/c_fc/tasks/lora_b"]
    leaf[0, 1] += 0.1  # the second task's
    after = run(towers.unflatten(moved))
    np.testing.assert_array_equal(before["age"], after["age"])
    np.testing.assert_array_equal(before["emotion"], after["emotion"])
    assert not np.allclose(before["gender"], after["gender"], atol=1e-3)
