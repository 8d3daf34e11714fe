"""Torch checkpoint files: read as data, never run, and written as torch itself would."""

import json
import pickle

import numpy as np
import pytest
import torch

from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VISION


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("level", [None, "state_dict", "weights"])
def test_containers_and_prefixes_are_unwrapped(tmp_path, level):
    state = {"module.a": torch.arange(6.0).reshape(2, 3).T, "module.b": torch.ones(2).bfloat16()}
    torch.save({level: state, "epoch": 3} if level else state, tmp_path / "a.pt")
    arrays, _ = load_arrays(tmp_path / "a.pt")
    assert arrays["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays["b"].dtype.name == "bfloat16"


@pytest.mark.parametrize("level", ["model", "ema", "state_dict", "model_ema", "module"])
@pytest.mark.parametrize("inner", [None, "state_dict", "module"])
def test_a_level_beside_an_optimizer_is_unwrapped(tmp_path, level, inner):
    state = {"_orig_mod.a": torch.ones(2), "_orig_mod.b": torch.zeros(3)}
    rest = {"epoch": 3, "rng": torch.zeros(1), "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    torch.save({level: {inner: state} if inner else state} | rest, tmp_path / "a.ckpt")
    arrays, _ = load_arrays(tmp_path / "a.ckpt")
    assert {key: array.tolist() for key, array in arrays.items()} == {"a": [1, 1], "b": [0, 0, 0]}


def test_of_a_model_and_its_average_one_is_chosen_by_name(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": {"a": torch.zeros(2)}, "ema": {"a": torch.ones(2)}, "epoch": 1}, path)
    with pytest.raises(UserError, match=r"several sets of weights.*a\.pt:model or .*a\.pt:ema"):
        load_arrays(path)
    assert load_arrays(f"{path}:ema")[0]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("chosen", ["student", "teacher.backbone", "state_dict.model"])
def test_a_level_at_any_depth_is_read_when_named(tmp_path, chosen):
    here, elsewhere = torch.ones(2), torch.zeros(2)
    tree = {"epoch": 3, "args": {"lr": 0.1}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    tree |= {"student": {"a": elsewhere}, "teacher": {"backbone.a": elsewhere, "head.a": elsewhere}}
    tree |= {"state_dict": {"model.a": elsewhere, "loss.a": elsewhere}}
    top, _, name = chosen.partition(".")
    tree[top] |= {f"{name}.a" if name else "a": here}
    torch.save(tree, tmp_path / "a.pt")
    assert load_arrays(f"{tmp_path}/a.pt:{chosen}")[0]["a"].tolist() == [1, 1]


def test_shards_of_bin_files_are_read_by_folder_and_index(tmp_path):
    drawn = named_state(formats.official_shapes("tiny-test", text=False))
    state = {f"module.{key}": torch.from_numpy(array) for key, array in drawn.items()}
    keys, places = list(state), {}
    for i, part in enumerate((keys[:20], keys[20:]), 1):
        name = f"pytorch_model-0000{i}-of-00002.bin"
        torch.save({key: state[key] for key in part}, tmp_path / name)
        places |= dict.fromkeys(part, name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for source in (tmp_path, index):
        read = formats.read(source, config=VISION["tiny-test"])
        assert all(torch.equal(torch.from_numpy(read[key]), state[f"module.{key}"]) for key in drawn)
    with pytest.raises(UserError, match="one shard of a checkpoint"):
        load_arrays(tmp_path / name)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, device="meta"), "a tensor without values.*key a"),
        (torch.ones(2).to(torch.float8_e4m3fn), "key a: .*found float8_e4m3fn"),
        (torch.ones(2).to(torch.float8_e5m2), "key a: .*found float8_e5m2"),
    ],
)
def test_tensors_that_hold_no_plain_numbers_are_refused(tmp_path, tensor, message):
    torch.save({"a": tensor}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=message) as error:
        load_arrays(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, zipped):
    trace = tmp_path / "it ran"
    payload = {"a": torch.ones(2), "b": Bomb(trace)}
    torch.save(payload, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="refused: the pickle contains more than tensors") as error:
        load_arrays(tmp_path / "a.pt")
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "it ran"
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"a": Bomb(trace)}))
    with pytest.raises(UserError):
        load_arrays(tmp_path / "a.bin")
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 5, 1000, 40_000])
def test_a_truncated_file_is_told_in_one_line(tmp_path, keep):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(20_000)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"(unreadable|refused).* torch file: .*a\.pt") as error:
        load_arrays(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "no state dict in the file"),
        ({"a": 3}, "not a plain tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "not a plain tensor"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        load_arrays(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_to_ours_to_torch_is_bit_identical(tmp_path, dtype):
    drawn = named_state(formats.official_shapes("tiny-test", text=True))
    state = {key: torch.from_numpy(array).to(dtype) for key, array in drawn.items()}
    torch.save(state, tmp_path / "a.pt")
    read = formats.read(tmp_path / "a.pt", config=VISION["tiny-test"])
    ours = formats.FORMATS["softbio"]
    save_arrays(tmp_path / "b.safetensors", ours.closed(ours.from_official(read)), metadata={})
    again = formats.read(tmp_path / "b.safetensors", config=VISION["tiny-test"])
    save_arrays(tmp_path / "c.pt", formats.FORMATS["official"].closed(again), metadata={})
    back = torch.load(tmp_path / "c.pt", weights_only=True)
    assert set(back) == set(state)
    for key, tensor in state.items():
        assert (back[key].dtype, back[key].shape) == (tensor.dtype, tensor.shape), key
        assert torch.equal(back[key].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), key


def test_infinities_in_float16_are_refused(tmp_path):
    drawn = named_state(formats.official_shapes("tiny-test", text=False))
    state = {key: torch.from_numpy(array).half() for key, array in drawn.items()}
    state["visual.proj"][0] = torch.inf
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"visual\.proj \(24 of 768, float16\)"):
        formats.read(tmp_path / "a.pt", config=VISION["tiny-test"])


def test_a_peft_adapter_in_a_bin_file_is_read(tmp_path):
    from softbio_jax.interop import peft
    from tests.interop.test_peft import drawn

    config, (model, params) = VISION["tiny-test"], drawn("lora")
    adapter = peft.collect(params, model.adapters)
    for name in ("a", "b"):
        peft.write(tmp_path / name, adapter)
    weights = tmp_path / "b" / peft.WEIGHTS
    tensors = {key: torch.from_numpy(array) for key, array in load_arrays(weights)[0].items()}
    torch.save(tensors, weights.with_suffix(".bin"))
    weights.unlink()
    found, wanted = (peft.read(tmp_path / name, config).layers for name in "ba")
    assert set(found) == set(wanted)
    for layer in wanted:
        assert (found[layer].a == wanted[layer].a).all()
        assert (found[layer].b == wanted[layer].b).all()


class Holder(torch.nn.Module):
    """A module with the parameters of dotted names, as `torch.jit.script` takes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_torchscript_archives_are_read_as_torch_reads_them(tmp_path):
    state = named_state(formats.official_shapes("tiny-clip", text=True))
    root = Holder()
    for name, array in state.items():
        *parents, leaf = name.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, Holder())
            node = getattr(node, parent)
        node.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(array.astype(np.float16))))
    root.register_buffer("input_resolution", torch.tensor(32))
    torch.jit.script(root).save(tmp_path / "ViT-B-32.pt")
    arrays, _ = load_arrays(tmp_path / "ViT-B-32.pt")
    theirs = torch.jit.load(tmp_path / "ViT-B-32.pt").state_dict()
    assert arrays.keys() == theirs.keys() == {*state, "input_resolution"}
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
