"""PEFT adapters whose settings differ per block: read, folded, attached and written back by block."""

import json
import math
import re

import numpy as np
import pytest
import safetensors.numpy

from softbio_jax.adapters.merge import merge
from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, formats, peft, stacking
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.peft_parts import folding
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import vision_config
from softbio_jax.params import flatten, unflatten

CONFIG = vision_config("tiny-test")
BASE = dict(named_state(formats.official_shapes("tiny-test", text=False)))
TIMM = OFFICIAL_TO_TIMM.forward(BASE)
QKV = [f"blocks.{i}.attn.qkv" for i in range(3)]
FC1 = [f"blocks.{i}.mlp.fc1" for i in range(3)]
# Modules with their ranks and alphas; without one, rank 4 and alpha 8.
KINDS = {
    "alpha of the first block": {QKV[0]: (4, 32), QKV[1]: (4, 8), QKV[2]: (4, 8)},
    "alpha of the middle block": {QKV[0]: (4, 8), QKV[1]: (4, 32), QKV[2]: (4, 8)},
    "alpha of the last block": {QKV[0]: (4, 8), QKV[1]: (4, 8), QKV[2]: (4, 3)},
    "alphas that all differ": {QKV[0]: (4, 1), QKV[1]: (4, 2), QKV[2]: (4, 5)},
    "an alpha of 0": {QKV[0]: (4, 0), QKV[1]: (4, 0), QKV[2]: (4, 8)},
    "two layers": {QKV[0]: (4, 8), QKV[1]: (4, 16), FC1[0]: (4, 16), FC1[1]: (4, 8), FC1[2]: (4, 8)},
    "the middle block": {QKV[1]: (4, 8)},
    "the last two blocks": {QKV[1]: (4, 8), QKV[2]: (4, 8)},
    "the first and the last block": {QKV[0]: (4, 8), QKV[2]: (4, 8)},
    "other layers on each block": {QKV[0]: (4, 8), FC1[1]: (4, 8), QKV[2]: (4, 8), FC1[2]: (4, 8)},
    "the pooling too": {QKV[1]: (4, 8), "attn_pool.q": (4, 2), "attn_pool.mlp.fc1": (2, 8)},
    "ranks": {QKV[0]: (2, 8), QKV[1]: (4, 8), QKV[2]: (4, 8)},
    "ranks and alphas": {QKV[0]: (2, 8), QKV[1]: (4, 3), QKV[2]: (8, 8), FC1[2]: (1, 1)},
    "blocks and ranks": {QKV[0]: (2, 8), QKV[2]: (8, 8)},
}
STACK = {kind: modules for kind, modules in KINDS.items() if "ranks" not in kind}


def saved(folder, modules, **values):
    """Writes a folder as PEFT does; returns module -> (A, B)."""
    rng, pairs, arrays = np.random.default_rng(0), {}, {}
    for module, (rank, _) in modules.items():
        out, inputs = TIMM[f"{module}.weight"].shape
        a, b = (rng.normal(size=size).astype(np.float32) for size in ((rank, inputs), (out, rank)))
        pairs[module] = a, b
        arrays |= {
            f"base_model.model.{module}.lora_A.weight": a,
            f"base_model.model.{module}.lora_B.weight": b,
        }
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(modules),
        "rank_pattern": {re.escape(m): rank for m, (rank, _) in modules.items() if rank != 4},
        "alpha_pattern": {re.escape(m): alpha for m, (_, alpha) in modules.items() if alpha != 8},
    }
    folder.mkdir()
    safetensors.numpy.save_file(arrays, folder / peft.WEIGHTS)
    (folder / peft.CONFIG).write_text(json.dumps(config | values))
    return pairs


def wanted(modules, pairs, *, rslora=False):
    """W + s B A of every module by the formula."""
    state = dict(TIMM)
    for module, (rank, alpha) in modules.items():
        a, b = pairs[module]
        scale = alpha / (math.sqrt(rank) if rslora else rank)
        state[f"{module}.weight"] = TIMM[f"{module}.weight"] + scale * b @ a
    return state


def assert_same(official, state):
    found = OFFICIAL_TO_TIMM.forward(official)
    assert found.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_allclose(found[key], array, atol=2e-5, err_msg=key)


def looked_up(config, module):
    """(rank, alpha) of a module, and whether it is a target, as PEFT looks them up."""

    def find(patterns, default):
        return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), default)

    found = find(config["rank_pattern"], config["r"]), find(config["alpha_pattern"], config["lora_alpha"])
    return found, re.fullmatch(config["target_modules"], module) is not None


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_each_block_has_its_own(kind, rslora, tmp_path):
    pairs = saved(tmp_path / "a", KINDS[kind], use_rslora=rslora)
    adaptation = adapter_files.read(tmp_path / "a", CONFIG, "peft")
    assert_same(adapter_files.into_tower(adaptation, BASE), wanted(KINDS[kind], pairs, rslora=rslora))


@pytest.mark.parametrize("kind", KINDS)
def test_written_back_each_block_has_its_own_and_no_other_module_is_named(kind, tmp_path):
    pairs = saved(tmp_path / "a", KINDS[kind])
    there = adapter_files.read(tmp_path / "a", CONFIG, "peft")
    adapter_files.write(tmp_path / "b.safetensors", there, CONFIG, "softbio")
    ours = adapter_files.read(tmp_path / "b.safetensors", CONFIG, "softbio")
    adapter_files.write(tmp_path / "c", ours, CONFIG, "peft")
    config = json.loads((tmp_path / "c" / peft.CONFIG).read_text())
    arrays = safetensors.numpy.load_file(tmp_path / "c" / peft.WEIGHTS)
    assert len(arrays) == 2 * len(KINDS[kind])
    for module, (a, b) in pairs.items():
        assert looked_up(config, module) == (KINDS[kind][module], True)
        np.testing.assert_array_equal(arrays[f"base_model.model.{module}.lora_A.weight"], a)
        np.testing.assert_array_equal(arrays[f"base_model.model.{module}.lora_B.weight"], b)
    others = {key.removesuffix(".weight") for key in TIMM} - pairs.keys()
    assert not [module for module in others if looked_up(config, module)[1]]
    assert not looked_up(config, "blocks.3.attn.qkv")[1]  # of a deeper encoder
    assert not looked_up(config, "blocks.10.attn.qkv")[1]


@pytest.mark.parametrize("kind", STACK)
def test_attached_and_collected_each_block_computes_its_own(kind, tmp_path):
    pairs = saved(tmp_path / "a", KINDS[kind])
    adapter = peft.read(tmp_path / "a", CONFIG)
    rules = adapter.rules(CONFIG)
    stacked = stacking.stack(OFFICIAL.forward(BASE), tail=adapter.tail(CONFIG))
    params = peft.attach(unflatten(stacked), adapter)
    state = wanted(KINDS[kind], pairs)
    assert_same(formats.official.add_prefix(peft.merged(params, rules)), state)
    assert merge(params, rules).keys() == params.keys()
    again = peft.collect(params, rules)
    off = {module for module, (_, alpha) in KINDS[kind].items() if not alpha}
    assert len(again.layers) in (len(pairs), len(pairs) - len(off))
    assert_same(OFFICIAL.backward(folding.folded(OFFICIAL.forward(BASE), again)), state)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - STACK.keys()))
def test_ranks_that_do_not_stack_are_one_line_with_the_way_out(kind, tmp_path):
    saved(tmp_path / "a", KINDS[kind])
    adapter = peft.read(tmp_path / "a", CONFIG)
    plain = unflatten(stacking.stack(OFFICIAL.forward(BASE), tail=adapter.tail(CONFIG)))
    with pytest.raises(UserError, match=r"adapters that do not stack: .*rank.*fix: fold it .*--base") as told:
        peft.attach(plain, adapter)
    assert "\n" not in str(told.value)


def test_dora_on_some_blocks_of_a_stack_folds_and_does_not_stack(tmp_path):
    pairs = saved(tmp_path / "a", KINDS["the first and the last block"], use_dora=True)
    arrays = safetensors.numpy.load_file(tmp_path / "a" / peft.WEIGHTS)
    state = dict(TIMM)
    for module, (a, b) in pairs.items():
        weight = TIMM[f"{module}.weight"] + 2 * b @ a
        magnitude = np.linspace(0.5, 2, len(weight), dtype=np.float32)
        arrays[f"base_model.model.{module}.lora_magnitude_vector"] = magnitude
        state[f"{module}.weight"] = weight * (magnitude / np.linalg.norm(weight, axis=1))[:, None]
    safetensors.numpy.save_file(arrays, tmp_path / "a" / peft.WEIGHTS)
    adaptation = adapter_files.read(tmp_path / "a", CONFIG, "peft")
    assert_same(adapter_files.into_tower(adaptation, BASE), state)
    with pytest.raises(UserError, match=r"do not stack: encoder/trunk/attn/qkv block 1: .*DoRA.*found none"):
        peft.attach(unflatten(stacking.stack(OFFICIAL.forward(BASE))), adaptation.adapter)


def test_q_and_v_of_different_ranks_and_alphas(tmp_path):
    modules = {"blocks.1.attn.q_proj": (2, 8), "blocks.1.attn.v_proj": (4, 3), "blocks.2.attn.k_proj": (4, 8)}
    rng, arrays, state = np.random.default_rng(0), {}, dict(TIMM)
    for module, (rank, alpha) in modules.items():
        a, b = (rng.normal(size=size).astype(np.float32) for size in ((rank, 32), (32, rank)))
        arrays |= {
            f"base_model.model.{module}.lora_A.weight": a,
            f"base_model.model.{module}.lora_B.weight": b,
        }
        key = module[:-6] + "qkv.weight"
        state[key] = state[key].copy()
        rows = slice(32 * "qkv".index(module[-6]), 32 * "qkv".index(module[-6]) + 32)
        state[key][rows] += alpha / rank * b @ a
    own = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "target_modules": list(modules)}
    saved(tmp_path / "a", {QKV[0]: (4, 8)}, **own)
    safetensors.numpy.save_file(arrays, tmp_path / "a" / peft.WEIGHTS)
    adaptation = adapter_files.read(tmp_path / "a", CONFIG, "peft")
    assert_same(adapter_files.into_tower(adaptation, BASE), state)


@pytest.mark.parametrize("patterns", [{"(": 8}, ["blocks.0"], {"blocks.0": "many"}, {"blocks.0": None}])
def test_patterns_that_cannot_be_read(patterns, tmp_path):
    saved(tmp_path / "a", {QKV[0]: (4, 8)}, alpha_pattern=patterns)
    with pytest.raises(UserError, match=r"PEFT patterns that cannot be read: .*field alpha_pattern"):
        peft.read(tmp_path / "a", CONFIG)


def test_what_attach_adds_stays_out_of_training(tmp_path):
    saved(tmp_path / "a", KINDS["the first and the last block"])
    adapter = peft.read(tmp_path / "a", CONFIG)
    params = flatten(peft.attach(unflatten(stacking.stack(OFFICIAL.forward(BASE))), adapter))
    a, b = (params[f"encoder/trunk/attn/qkv/{name}"] for name in ("lora_a", "lora_b"))
    assert not a[1].any() and not b[1].any()  # dL/dA = .. B' and dL/dB = A' .. are 0
    assert a[0].any() and b[2].any()
