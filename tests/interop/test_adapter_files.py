"""Adapters, heads and trained weights between PEFT's layout, the thesis' and ours."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, formats, official, peft, stacking
from softbio_jax.interop.adapter_files import Adaptation
from softbio_jax.interop.peft_layers import Adapter
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import vision_config
from softbio_jax.params import flatten
from tests.adapters import towers
from tests.interop.test_commands import run

CONFIG = vision_config("tiny-test")


def drawn(name):
    model = towers.model(towers.METHODS[name])
    variables = towers.variables(model)
    params = towers.stirred(variables["params"])
    leaves = {p: np.asarray(x) for p, x in flatten(params).items() if p.startswith("heads/")}
    checkpoint = Adaptation(
        adapter=peft.collect(params, model.adapters),
        leaves=leaves,
        batch_stats=variables["batch_stats"],
        rules=model.adapters,
        tail=model.tail,
    )
    return model, params, checkpoint


def same(one, other):
    assert one.adapter.layers.keys() == other.adapter.layers.keys()
    for name, layer in one.adapter.layers.items():
        again = other.adapter.layers[name]
        assert again.config == layer.config
        for field in ("a", "b", "magnitude"):
            np.testing.assert_array_equal(getattr(again, field), getattr(layer, field))
    assert one.leaves.keys() == other.leaves.keys()
    for path, leaf in one.leaves.items():
        np.testing.assert_array_equal(other.leaves[path], leaf, err_msg=path)
    stats = flatten(one.batch_stats)
    assert stats.keys() == flatten(other.batch_stats).keys()
    for path, leaf in flatten(other.batch_stats).items():
        np.testing.assert_array_equal(leaf, stats[path])


@pytest.mark.parametrize("name", ["lora", "dora", "rslora"])
def test_ours_comes_back_with_heads_and_settings(name, tmp_path):
    _, _, checkpoint = drawn(name)
    path = tmp_path / "adapter.safetensors"
    adapter_files.write(path, checkpoint, CONFIG, "softbio")
    assert adapter_files.is_ours(path)
    same(checkpoint, adapter_files.read(path, CONFIG, "softbio"))


def test_from_peft_to_ours_and_back_is_bit_identical(tmp_path):
    _, _, checkpoint = drawn("dora")
    there, ours, back = tmp_path / "a", tmp_path / "b.safetensors", tmp_path / "c"
    adapter_files.write(there, adapter_files.without_heads(checkpoint), CONFIG, "peft")
    for src, src_format, dst, dst_format in (
        (there, "peft", ours, "softbio"),
        (ours, "softbio", back, "peft"),
    ):
        done = run(
            "convert", src=src, src_format=src_format, dst=dst, dst_format=dst_format, variant="tiny-test"
        )
        assert done.returncode == 0, done.stderr
        assert "15 layers, heads: none" in done.stdout
    for name in (peft.WEIGHTS, peft.CONFIG):
        assert (back / name).read_bytes() == (there / name).read_bytes()


def test_an_adapter_folded_into_a_tower_is_the_runs_merged_tower(tmp_path):
    model, params, checkpoint = drawn("dora")
    adapter = adapter_files.without_heads(checkpoint)
    plain = {k: v for k, v in towers.without_adapters(params).items() if k != "heads"}
    base = official.OFFICIAL.backward(stacking.unstack(flatten(plain)))
    folded = adapter_files.into_tower(adapter, base)
    wanted = peft.merged(params, model.adapters)
    assert folded.keys() == formats.official_shapes("tiny-test", text=False).keys()
    for key, array in wanted.items():
        np.testing.assert_allclose(folded[f"visual.{key}"], array, atol=1e-6, err_msg=key)


def test_what_has_no_place_is_one_line(tmp_path):
    _, _, checkpoint = drawn("dora")
    with pytest.raises(UserError, match=r"PEFT has no place for heads.*add --vision_only"):
        adapter_files.write(tmp_path / "a", checkpoint, CONFIG, "peft")
    with pytest.raises(UserError, match="adapters do not go into a flat file"):
        adapter_files.write(tmp_path / "a.pt", checkpoint, CONFIG, "thesis")
    path = tmp_path / "adapter.safetensors"
    adapter_files.write(path, checkpoint, CONFIG, "softbio")
    with pytest.raises(UserError, match=r"adapter of another variant.*expected tiny-faces"):
        adapter_files.read(path, vision_config("tiny-faces"), "softbio")
    own = dataclasses.replace(checkpoint, rules=towers.METHODS["mtlora"].rules)
    with pytest.raises(UserError, match="MTLoRA's last block and pooling"):
        adapter_files.into_tower(dataclasses.replace(own, adapter=Adapter(layers={})), {})


def test_mistakes_with_adapters_are_one_line(tmp_path):
    _, _, checkpoint = drawn("lora")
    folder = tmp_path / "adapter"
    adapter_files.write(folder, adapter_files.without_heads(checkpoint), CONFIG, "peft")
    broken = tmp_path / "broken"
    adapter_files.write(broken, adapter_files.without_heads(checkpoint), CONFIG, "peft")
    config = json.loads((broken / peft.CONFIG).read_text())
    (broken / peft.CONFIG).write_text(json.dumps(config | {"use_new_thing": True}))
    for flags, message in (
        ({"src": broken, "dst_format": "softbio"}, "PEFT field that is not supported"),
        ({"src": folder, "dst_format": "timm"}, "adapters without their encoder"),
        ({"src": folder, "dst_format": "softbio", "variant": "tiny-faces"}, "adapter of another variant"),
    ):
        out = tmp_path / "out.safetensors"
        done = run("convert", **({"src_format": "peft", "dst": out, "variant": "tiny-test"} | flags))
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {message}"), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not out.exists()


def trained():
    """What FT trains: the last two blocks, the pooling, heads; and log sigma^2."""
    model, params, checkpoint = drawn("ft2")
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    leaves = stacking.unstack({p: x for p, x in flat.items() if p.startswith("encoder/")})
    last = tuple(f"encoder/blocks/{model.config.layers - i}/" for i in (1, 2))
    leaves = {path: leaf for path, leaf in leaves.items() if path.startswith(last)}
    leaves |= {path: leaf for path, leaf in flat.items() if path.startswith("pool/")}
    logs = {f"balance/{task}/log_var": np.float32(0.5 * i) for i, task in enumerate(towers.TASKS)}
    return dataclasses.replace(checkpoint, leaves=checkpoint.leaves | leaves | logs, tail=0)


def legacy_key(key):
    """A key of the newer flat file as the older layout has it."""
    key = key.replace(".attn.in_proj.", ".attn.in_proj_")
    if key.startswith("backbone.attn_pool."):
        return f"attn_pool.strategy.{key}"
    if key.startswith("backbone."):
        return f"backbone_state_dict.strategy.{key}"
    for task in towers.TASKS:
        head = f"prediction_layers.{task.capitalize()}."
        if key.startswith(head):
            place = key.removeprefix(head)
            place = place.replace("4.", "5.", 1) if place.startswith("4.") else place
            return f"prediction_layers.heads.{task}.{place}"
    return key


@pytest.mark.parametrize("legacy", [False, True])
def test_the_thesis_flat_files_come_back(legacy, tmp_path):
    checkpoint = trained()
    path = tmp_path / "trained.safetensors"
    adapter_files.write(path, checkpoint, CONFIG, "thesis")
    arrays, _ = load_arrays(path)
    assert "backbone.transformer.resblocks.2.attn.in_proj.weight" in arrays
    assert "backbone.attn_pool.attn.in_proj_weight" in arrays
    assert arrays["log_vars"].tolist() == [0, 0.5, 1]
    if legacy:
        arrays = {legacy_key(key): array for key, array in arrays.items()}
        assert "prediction_layers.heads.age.5.weight" in arrays
        save_arrays(path, arrays, metadata={})
    same(checkpoint, adapter_files.read(path, CONFIG, "thesis"))


def test_flat_files_refuse_another_variant_and_strange_keys(tmp_path):
    checkpoint = trained()
    path = tmp_path / "trained.safetensors"
    adapter_files.write(path, checkpoint, CONFIG, "thesis")
    with pytest.raises(UserError, match=r"checkpoint of another variant.*as in tiny-test"):
        adapter_files.read(path, vision_config("PE-Core-T16-384"), "thesis")
    arrays, _ = load_arrays(path)
    save_arrays(path, arrays | {"optimizer.step": np.zeros(1)}, metadata={})
    with pytest.raises(UserError, match=r"not a tensor of a trained model.*optimizer.step"):
        adapter_files.read(path, CONFIG, "thesis")


def test_trained_weights_take_their_places_in_a_tower():
    checkpoint = adapter_files.without_heads(trained())
    shapes = formats.official_shapes("tiny-test", text=False)
    base = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    tower = adapter_files.into_tower(checkpoint, base)
    assert not tower["visual.transformer.resblocks.0.mlp.c_fc.weight"].any()
    wanted = checkpoint.leaves["encoder/blocks/2/mlp/c_fc/kernel"].T
    np.testing.assert_array_equal(tower["visual.transformer.resblocks.2.mlp.c_fc.weight"], wanted)
    np.testing.assert_array_equal(tower["visual.attn_pool.probe"], checkpoint.leaves["pool/probe"])
