"""PEFT files without PEFT: names, what comes back, merged weights, and what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.errors import UserError
from softbio_jax.interop import peft
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import vision_config
from softbio_jax.params import flatten
from tests.adapters import towers
from tests.compiling import quick_jit

CONFIG = vision_config("tiny-test")


def drawn(name):
    model = towers.model(towers.METHODS[name])
    return model, towers.stirred(towers.variables(model)["params"])


@pytest.fixture
def saved(tmp_path):
    """A folder as PEFT leaves it, on timm's names."""
    model, params = drawn("dora")
    peft.write(tmp_path, peft.collect(params, model.adapters))
    return tmp_path


def edit_config(folder, **values):
    path = folder / peft.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder, change):
    path = folder / peft.WEIGHTS
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(change(arrays), path)


@pytest.mark.parametrize("name", ["lora", "dora", "rslora", "mtlora"])
@pytest.mark.parametrize("naming", ["timm", "official_linear"])
def test_what_is_written_is_read_back(name, naming, tmp_path):
    model, params = drawn(name)
    peft.write(tmp_path, peft.collect(params, model.adapters), naming=naming)
    again = peft.read(tmp_path, CONFIG)
    assert again.tail(CONFIG) == (1 if name == "mtlora" else 0)
    plain = {k: v for k, v in towers.without_adapters(params).items() if k != "heads"}
    back = flatten(peft.attach(plain, again))
    for path, leaf in flatten(params).items():
        own = "/tasks/" in path or path.startswith("heads/") or path.endswith("task_probe")
        if not own:
            np.testing.assert_allclose(back[path], leaf, rtol=1e-6, err_msg=path)
    for path in ("encoder/trunk/attn/qkv", "encoder/trunk/mlp/c_proj"):
        assert again.rules(CONFIG).match(path) == model.adapters.match(path)


def test_the_keys_are_timms(saved):
    keys = set(safetensors.numpy.load_file(saved / peft.WEIGHTS))
    assert "base_model.model.blocks.2.attn.qkv.lora_A.weight" in keys
    assert "base_model.model.attn_pool.mlp.fc2.lora_magnitude_vector" in keys
    assert len(keys) == (4 * 3 + 3) * 3
    config = json.loads((saved / peft.CONFIG).read_text())
    assert config["use_dora"] and config["r"] == 4 and config["lora_alpha"] == 6.0


@pytest.mark.parametrize(("name", "task"), [("dora", None), ("mtlora_task", 1)])
def test_merged_weights_are_an_official_checkpoint(name, task, tmp_path):
    model, params = drawn(name)
    path = tmp_path / "merged.safetensors"
    save_arrays(path, peft.merged(params, model.adapters, task=task), metadata={})
    tower = load_pretrained(path, config=CONFIG, tail=model.tail)
    x = towers.images(CONFIG)
    run = lambda m, p: quick_jit(lambda p: m.apply({"params": p}, x, method="features"))(p)  # noqa: E731
    wanted = run(model, params)
    ours = run(towers.plain_twin(model), tower)
    for i, spec in enumerate(towers.TASK_SPECS):
        if task in (None, i):
            np.testing.assert_allclose(ours[spec.name], wanted[spec.name], atol=1e-5)


def test_adapters_on_the_last_blocks_alone(saved):
    edit_weights(saved, lambda arrays: {k: v for k, v in arrays.items() if "blocks.0." not in k})
    adapter = peft.read(saved, CONFIG)
    assert adapter.tail(CONFIG) == 2
    assert adapter.rules(CONFIG).match("encoder/trunk/attn/qkv") is None
    assert adapter.rules(CONFIG).match("encoder/tail/attn/qkv") == towers.DORA


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("alora_invocation_tokens", [1, 2]),
            ("layer_replication", [[0, 2]]),
            ("target_parameters", ["attn_pool.latent"]),
            ("use_qalora", True),
            ("new_trick", {"a": 1}),
        ],
    )
    def test_fields_that_change_the_adapter(self, saved, field, value):
        edit_config(saved, **{field: value})
        with pytest.raises(UserError, match=f"field {field}: expected none") as told:
            peft.read(saved, CONFIG)
        assert "fix:" in str(told.value) and "\n" not in str(told.value)

    def test_fields_that_are_off_are_passed_over(self, saved):
        edit_config(saved, new_trick=None, other=False, init_lora_weights=True)
        peft.read(saved, CONFIG)

    def test_another_kind_of_adapter(self, saved):
        edit_config(saved, peft_type="IA3")
        with pytest.raises(UserError, match=r"not a LoRA adapter.*found 'IA3'"):
            peft.read(saved, CONFIG)

    def test_no_configuration(self, tmp_path):
        with pytest.raises(UserError, match=r"no PEFT adapter: .*found nothing; fix"):
            peft.read(tmp_path, CONFIG)

    def test_rank_of_another_adapter(self, saved):
        edit_config(saved, r=8)
        with pytest.raises(UserError, match="expected rank 8, found A of rank 4, B of rank 4"):
            peft.read(saved, CONFIG)

    def test_dora_weights_without_dora(self, saved):
        edit_config(saved, use_dora=False)
        with pytest.raises(UserError, match="DoRA magnitudes do not fit"):
            peft.read(saved, CONFIG)

    def test_another_variant(self, saved):
        with pytest.raises(UserError, match=r"expected PE-Core-T16-384, found .* as in tiny-test"):
            peft.read(saved, vision_config("PE-Core-T16-384"))

    def test_an_adapter_of_the_pooling_for_a_tower_without(self, saved):
        with pytest.raises(UserError, match="adapter of another variant"):
            peft.read(saved, towers.TINY_DENSE)

    def test_a_module_that_the_tower_does_not_have(self, saved):
        key = "base_model.model.blocks.0.attn.gate"
        edit_weights(
            saved,
            lambda arrays: (
                arrays
                | {
                    f"{key}.lora_A.weight": np.zeros((4, 32), np.float32),
                    f"{key}.lora_B.weight": np.zeros((32, 4), np.float32),
                }
            ),
        )
        with pytest.raises(UserError, match=r"module base_model.model.blocks.0.attn.gate"):
            peft.read(saved, CONFIG)

    def test_a_tensor_of_no_adapter(self, saved):
        key = "base_model.model.head.weight"
        edit_weights(saved, lambda arrays: arrays | {key: np.zeros(3, np.float32)})
        with pytest.raises(UserError, match="not a tensor of a LoRA adapter"):
            peft.read(saved, CONFIG)

    def test_half_an_adapter(self, saved):
        key = "base_model.model.blocks.1.mlp.fc1.lora_B.weight"
        edit_weights(saved, lambda arrays: {k: v for k, v in arrays.items() if k != key})
        with pytest.raises(UserError, match="incomplete adapter"):
            peft.read(saved, CONFIG)

    def test_scattered_blocks(self, saved):
        edit_weights(saved, lambda arrays: {k: v for k, v in arrays.items() if "blocks.1." not in k})
        adapter = peft.read(saved, CONFIG)  # DoRA; tests/interop/test_peft_blocks.py folds it
        plain = towers.without_adapters(towers.variables(towers.model(towers.METHODS["dora"]))["params"])
        with pytest.raises(UserError, match=r"adapters that do not stack: .* block 1: .*found none"):
            peft.attach(plain, adapter)

    def test_infinities(self, saved):
        edit_weights(saved, lambda arrays: {k: v * np.inf for k, v in arrays.items()})
        with pytest.raises(UserError, match="infinities or NaN"):
            peft.read(saved, CONFIG)

    @pytest.mark.parametrize("layer", ["attn/qkv", "attn/out"])
    def test_official_modules_that_peft_would_silently_ignore(self, layer, tmp_path):
        method = methods.lora(LoRAConfig(rank=4, alpha=4.0), targets=[f"encoder/trunk/{layer}"])
        params = towers.variables(towers.model(method))["params"]
        adapter = peft.collect(params, method.rules)
        with pytest.raises(UserError, match=r"silently ignore.*fix: write it with timm's names"):
            peft.write(tmp_path / "out", adapter, naming="official")
        assert not (tmp_path / "out").exists()

    def test_official_modules_that_work(self, tmp_path):
        method = methods.lora(LoRAConfig(rank=4, alpha=4.0), targets=["encoder/trunk/mlp/.*"])
        params = towers.variables(towers.model(method))["params"]
        peft.write(tmp_path, peft.collect(params, method.rules), naming="official")
        keys = safetensors.numpy.load_file(tmp_path / peft.WEIGHTS)
        assert "base_model.model.transformer.resblocks.0.mlp.c_fc.lora_A.weight" in keys
