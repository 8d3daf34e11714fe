"""LoRA and DoRA against PEFT on timm's tower: outputs, gradients, an AdamW step, files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.adapters.merge import merge
from softbio_jax.interop import adapter_files, stacking
from softbio_jax.interop import peft as our_peft
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import flatten, unflatten
from tests.parity.torch_towers import CONFIG, IMAGES, official_state, run_torch, timm_tower

KINDS = {
    "lora": LoRAConfig(rank=4, alpha=6.0),
    "rslora": LoRAConfig(rank=4, alpha=6.0, rslora=True),
    "dora": LoRAConfig(rank=4, alpha=6.0, dora=True),
}
TARGETS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|attn_pool\.(q|kv|proj|mlp\.fc[12])"


def plain_params(tail=0):
    return unflatten(stacking.stack(OFFICIAL.forward(official_state()), tail=tail))


def run_ours(params, rules, tail=0):
    tower = VisionEncoder(CONFIG, adapters=rules, tail=tail)
    return jax.jit(lambda p: tower.apply({"params": p}, jnp.asarray(IMAGES)))(params)


def peft_tower(kind, targets=TARGETS, seed=0):
    """A timm tower with a PEFT adapter whose every tensor is away from its start."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=kind.rank, lora_alpha=kind.alpha, use_rslora=kind.rslora, use_dora=kind.dora, target_modules=targets
    )
    model = peft.get_peft_model(timm_tower(), config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
            elif "magnitude" in name:
                value.mul_(1 + 0.1 * torch.randn_like(value))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_peft_saved_gives_its_outputs(kind, tmp_path):
    theirs = peft_tower(KINDS[kind])
    theirs.save_pretrained(tmp_path)
    adapter = our_peft.read(tmp_path, CONFIG)
    ours = run_ours(our_peft.attach(plain_params(), adapter), adapter.rules(CONFIG))
    wanted = run_torch(theirs)
    assert np.abs(wanted - run_torch(timm_tower())).max() > 0.05
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    merged = merge(our_peft.attach(plain_params(), adapter), adapter.rules(CONFIG))
    np.testing.assert_allclose(run_ours(merged, AdapterRules()), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_we_wrote_loads_in_peft_and_comes_back(kind, tmp_path):
    method = methods.lora(KINDS[kind], targets=[methods.BLOCK_TARGETS, "pool/.*"])
    rng = np.random.default_rng(7)
    tower = VisionEncoder(CONFIG, adapters=method.rules)
    fresh = tower.init(jax.random.key(0), jnp.asarray(IMAGES))["params"]
    flat = flatten(fresh) | flatten(plain_params())
    for path, leaf in flat.items():
        if path.endswith("lora_b"):
            flat[path] = 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
        elif path.endswith(("dora_magnitude", "dora_base_norm")):
            kernel = np.asarray(flat[path.rsplit("/", 1)[0] + "/kernel"])
            flat[path] = np.linalg.norm(kernel, axis=-2)
            if path.endswith("dora_magnitude"):
                flat[path] = flat[path] * rng.uniform(0.9, 1.1, leaf.shape).astype(np.float32)
    params = unflatten(flat)
    our_peft.write(tmp_path, our_peft.collect(params, method.rules))
    loaded = peft.PeftModel.from_pretrained(timm_tower(), tmp_path).eval()
    ours = run_ours(params, method.rules)
    np.testing.assert_allclose(run_torch(loaded), ours, atol=1e-4)

    again = our_peft.read(tmp_path, CONFIG)
    back = flatten(our_peft.attach(plain_params(), again))
    for path, leaf in flat.items():
        np.testing.assert_allclose(back[path], leaf, rtol=1e-6, err_msg=path)
    assert "peft_version" not in json.loads((tmp_path / our_peft.CONFIG).read_text())


def test_a_rank_of_its_own_for_some_modules(tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS,
        rank_pattern={r"attn_pool\.kv": 3},
        alpha_pattern={"mlp.fc1": 2.0},
    )
    theirs = peft.get_peft_model(timm_tower(), config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    adapter = our_peft.read(tmp_path / "theirs", CONFIG)
    ours = run_ours(our_peft.attach(plain_params(), adapter), adapter.rules(CONFIG))
    np.testing.assert_allclose(ours, run_torch(theirs), atol=1e-4)
    our_peft.write(tmp_path / "ours", adapter)
    loaded = peft.PeftModel.from_pretrained(timm_tower(), tmp_path / "ours").eval()
    np.testing.assert_allclose(run_torch(loaded), ours, atol=1e-4)


PER_BLOCK = {
    "alpha of a block": {"alpha_pattern": {r"blocks\.0\.attn\.qkv": 64}},
    "alphas by a regex": {"alpha_pattern": {r"blocks\.[02]\.mlp\.fc.": 2, "attn.qkv": 3}},
    "ranks of a block": {"rank_pattern": {r"blocks\.0\..*": 2}},
    "ranks and alphas": {"rank_pattern": {"mlp.fc1": 2, "2.mlp.fc2": 3}, "alpha_pattern": {"0.attn.proj": 9}},
    "the middle block": {
        "target_modules": ["qkv", "fc1"],
        "layers_to_transform": [1],
        "layers_pattern": "blocks",
    },
    "the last two": {"target_modules": ["qkv"], "layers_to_transform": [1, 2], "layers_pattern": "blocks"},
    "the ends": {"target_modules": ["qkv"], "layers_to_transform": [0, 2], "layers_pattern": "blocks"},
    "targets per block": {"target_modules": ["blocks.0.attn.qkv", "blocks.1.mlp.fc1", "blocks.2.attn.qkv"]},
    "with rslora": {"rank_pattern": {"blocks.1.attn.qkv": 8}, "use_rslora": True},
}


@pytest.mark.parametrize("kind", PER_BLOCK)
def test_settings_of_single_blocks_are_pefts(kind, tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | PER_BLOCK[kind]))
    theirs = peft.get_peft_model(timm_tower(), config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    wanted = run_torch(theirs)
    assert np.abs(wanted - run_torch(timm_tower())).max() > 0.01
    theirs.save_pretrained(tmp_path / "theirs")

    adaptation = adapter_files.read(tmp_path / "theirs", CONFIG, "peft")
    state = OFFICIAL_TO_TIMM.forward(adapter_files.into_tower(adaptation, official_state()))
    folded = timm_tower()
    folded.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    np.testing.assert_allclose(run_torch(folded), wanted, atol=1e-5)

    our_peft.write(tmp_path / "ours", adaptation.adapter)
    loaded = peft.PeftModel.from_pretrained(timm_tower(), tmp_path / "ours", is_trainable=True).eval()
    np.testing.assert_allclose(run_torch(loaded), wanted, atol=1e-6)
    adapted = lambda model: {n for n, _ in model.named_parameters() if "lora_" in n}  # noqa: E731
    assert adapted(loaded) == adapted(theirs)


class PoolOfTorch(torch.nn.Module):
    """Only the official pooling's attention, which is torch's own."""

    def __init__(self):
        super().__init__()
        self.attn_pool = torch.nn.Module()
        self.attn_pool.attn = torch.nn.MultiheadAttention(32, 8, batch_first=True)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        state = {name: official_state()[f"visual.attn_pool.attn.{name}"] for name in names}
        self.attn_pool.attn.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})

    def forward(self, x):
        return self.attn_pool.attn(x[:, :1], x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    "patterns", [{}, {"alpha_pattern": {"attn": 3}}, {"rank_pattern": {"attn_pool.attn": 2}}]
)
def test_the_official_poolings_attention_as_this_peft_computes_it(patterns, tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=r"attn_pool\.attn", **patterns)
    theirs = peft.get_peft_model(PoolOfTorch(), config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    theirs.save_pretrained(tmp_path)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        wanted = theirs(x)
    adaptation = adapter_files.read(tmp_path, CONFIG, "peft")
    state = adapter_files.into_tower(adaptation, official_state())
    ours = PoolOfTorch()
    start = "visual.attn_pool.attn."
    found = {
        k.removeprefix(start): torch.from_numpy(np.array(v)) for k, v in state.items() if k.startswith(start)
    }
    ours.attn_pool.attn.load_state_dict(found)
    with torch.no_grad():
        np.testing.assert_allclose(ours(x), wanted, atol=1e-5)
        assert (PoolOfTorch()(x) - wanted).abs().max() > 0.01


class SplitAttention(torch.nn.Module):
    """timm's fused attention with q, k and v as modules of their own."""

    def __init__(self, fused):
        super().__init__()
        self.fused = [fused]  # hidden from named_modules
        width = fused.qkv.in_features
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            linear = torch.nn.Linear(width, width)
            linear.weight.data = fused.qkv.weight.data[i * width : (i + 1) * width].clone()
            linear.bias.data = fused.qkv.bias.data[i * width : (i + 1) * width].clone()
            setattr(self, name, linear)
        self.proj = fused.proj

    def forward(self, x, **arguments):
        outer = self

        class Joined(torch.nn.Module):
            bias = None

            def forward(self, x):
                return torch.cat([outer.q_proj(x), outer.k_proj(x), outer.v_proj(x)], dim=-1)

        fused = self.fused[0]
        kept, fused.qkv = fused.qkv, Joined()
        try:
            return fused(x, **arguments)
        finally:
            fused.qkv = kept


@pytest.mark.parametrize("names", ["q_proj|k_proj|v_proj", "q_proj|v_proj"])
@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_of_a_tower_with_separate_q_k_v(names, rslora, tmp_path):
    tower = timm_tower()
    for block in tower.blocks:
        block.attn = SplitAttention(block.attn)
    np.testing.assert_allclose(run_torch(tower), run_torch(timm_tower()), atol=1e-5)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_rslora=rslora, target_modules=rf"blocks\.\d+\.attn\.({names})"
    )
    theirs = peft.get_peft_model(tower, config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    theirs.save_pretrained(tmp_path)
    adapter = our_peft.read(tmp_path, CONFIG)
    layer = adapter.layers["encoder/blocks/0/attn/qkv"].config
    assert layer.rank == 3 * len(names.split("|"))
    assert layer.scale == pytest.approx(5 / (3**0.5 if rslora else 3))
    ours = run_ours(our_peft.attach(plain_params(), adapter), adapter.rules(CONFIG))
    np.testing.assert_allclose(ours, run_torch(theirs), atol=1e-4)


# One layer, so that gradients and steps can be compared to 1e-5.


class OneLinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.fc = torch.nn.Linear(24, 16)

    def forward(self, x):
        return self.fc(x)


def one_layer(kind):
    """PEFT's layer and ours with the same weights: (torch model, our layer, params)."""
    config = peft.LoraConfig(
        r=kind.rank,
        lora_alpha=kind.alpha,
        use_rslora=kind.rslora,
        use_dora=kind.dora,
        lora_dropout=kind.dropout,
        target_modules=["fc"],
    )
    theirs = peft.get_peft_model(OneLinear(), config)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.3)
            elif "magnitude" in name:
                value.mul_(1 + 0.2 * torch.rand_like(value))
    layer = AdaptedDense(16, adapters=AdapterRules(rules=((".*", kind),)))
    kernel = theirs.base_model.model.fc.base_layer.weight.detach().numpy().T
    params = {"kernel": kernel, "bias": theirs.base_model.model.fc.base_layer.bias.detach().numpy()}
    params |= ours_of(theirs)
    if kind.dora:
        params["dora_base_norm"] = np.linalg.norm(kernel, axis=0)
    return theirs, layer, {k: jnp.asarray(v) for k, v in params.items()}


def ours_of(theirs, leaf=lambda p: p):
    names = {
        "lora_A": ("lora_a", True),
        "lora_B": ("lora_b", True),
        "lora_magnitude": ("dora_magnitude", False),
    }
    out = {}
    for name, value in theirs.named_parameters():
        for theirs_name, (ours, transpose) in names.items():
            if theirs_name in name:
                array = leaf(value).detach().numpy()
                out[ours] = array.T.copy() if transpose else array.copy()
    return out


def draw():
    rng = np.random.default_rng(5)
    return (rng.standard_normal(s).astype(np.float32) for s in ((7, 24), (7, 16)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_one_adamw_step_of_a_layer(kind):
    theirs, layer, params = one_layer(KINDS[kind])
    x, weight = draw()
    trainable = {k: params[k] for k in params if k in ("lora_a", "lora_b", "dora_magnitude")}

    def loss(trainable):
        return jnp.sum(jnp.sin(layer.apply({"params": params | trainable}, x)) * weight)

    value, gradient = jax.value_and_grad(loss)(trainable)
    optimizer = torch.optim.AdamW(
        [p for p in theirs.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.01
    )
    wanted = (torch.sin(theirs(torch.from_numpy(x))) * torch.from_numpy(weight)).sum()
    wanted.backward()
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    for name, array in ours_of(theirs, lambda p: p.grad).items():
        np.testing.assert_allclose(gradient[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
    optimizer.step()
    adamw = optax.adamw(1e-2, weight_decay=0.01)
    updates, _ = adamw.update(gradient, adamw.init(trainable), trainable)
    stepped = optax.apply_updates(trainable, updates)
    for name, array in ours_of(theirs).items():
        np.testing.assert_allclose(stepped[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_dropout_is_where_peft_has_it(kind, monkeypatch):
    # Both drop the same entries of the adapter's input, at rate 0.5.
    theirs, layer, params = one_layer(dataclasses.replace(KINDS[kind], dropout=0.5))
    x, _ = draw()
    dropped = np.where(np.random.default_rng(9).random(x.shape) < 0.5, 0, x * 2).astype(np.float32)
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, value: torch.from_numpy(dropped))
    monkeypatch.setattr(
        "softbio_jax.adapters.math.dropout", lambda value, key, rows, *, rate: jnp.asarray(dropped)
    )
    theirs.train()
    wanted = theirs(torch.from_numpy(x)).detach().numpy()
    ours = layer.apply({"params": params}, x, jnp.arange(len(x)), rngs={"dropout": jax.random.key(0)})
    assert np.abs(wanted - np.asarray(layer.apply({"params": params}, dropped))).max() > 0.01
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_full_configurations_of_peft_are_read(tmp_path):
    peft_tower(KINDS["dora"]).save_pretrained(tmp_path)
    values = json.loads((tmp_path / our_peft.CONFIG).read_text())
    assert len(values) > 20
    read = our_peft.read_config(tmp_path / our_peft.CONFIG)
    assert read.lora == KINDS["dora"]
