"""Checkpoints in several files and in folders: what is read, and what is refused before it is opened."""

import json
import types

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.reading.locate import resolve
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VISION

NAMES = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "model.safetensors.index.json"


def shards(folder, parts=({"a": np.ones(2)}, {"b": np.zeros(2)}), **places):
    """Writes two shards and their index; `places` are entries of the index to add or change."""
    folder.mkdir(exist_ok=True)
    for name, part in zip(NAMES, parts, strict=True):
        save_arrays(folder / name, part, metadata={})
    listed = {key: name for name, part in zip(NAMES, parts, strict=True) for key in part} | places
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder / INDEX


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "model."])
@pytest.mark.parametrize("by_folder", [True, False])
def test_an_encoder_in_shards_is_read_by_its_index_or_its_folder(tmp_path, prefix, by_folder):
    state = named_state(formats.official_shapes("tiny-test", text=True))
    keys = list(state)
    halves = [{prefix + key: state[key] for key in part} for part in (keys[::2], keys[1::2])]
    index = shards(tmp_path / "s", halves)
    source = resolve(str(tmp_path / "s" if by_folder else index))
    read = formats.read(source, config=VISION["tiny-test"])
    assert set(read) == set(state)
    assert all(np.array_equal(read[key], state[key]) for key in state)


def test_of_several_levels_in_shards_one_is_chosen(tmp_path):
    shards(tmp_path / "s", ({"ema.a": np.ones(2)}, {"model.a": np.zeros(2)}))
    assert load_arrays(resolve(f"{tmp_path}/s:ema"))[0]["a"].tolist() == [1, 1]
    with pytest.raises(UserError, match="several sets of weights"):
        load_arrays(tmp_path / "s")


@pytest.mark.parametrize(
    ("parts", "places", "message"),
    [
        (
            ({"a": np.ones(2), "d": np.ones(1)}, {"a": np.zeros(2)}),
            {},
            f"{NAMES[0]} with a, which the index has in {NAMES[1]}",
        ),
        (({"a": np.ones(2)}, {"b": np.zeros(2), "c": np.zeros(1)}), {"c": NAMES[0]}, "without c"),
        (({"a": np.ones(2)}, {"b": np.zeros(2)}), {"c": NAMES[1]}, rf"found {NAMES[1]} without c"),
        (({"a": np.ones(2)}, {"b": np.zeros(2)}), {"c": "model-00003.safetensors"}, "1 of 3 files"),
    ],
)
def test_shards_that_are_not_those_of_their_index(tmp_path, parts, places, message):
    index = shards(tmp_path, parts, **places)
    with pytest.raises(UserError, match=message) as error:
        load_arrays(index)
    assert "\n" not in str(error.value)


def test_an_array_that_the_index_does_not_list(tmp_path):
    index = shards(tmp_path)
    save_arrays(tmp_path / NAMES[1], {"b": np.zeros(2), "c": np.zeros(1)}, metadata={})
    with pytest.raises(UserError, match=f"{NAMES[1]} with c, which the index does not have"):
        load_arrays(index)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "..", "", ".", "sub/x.bin", r"..\x.pt", "c:x.pt", "passwd"],
)
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, name):
    save_arrays(tmp_path / "x.safetensors", {"c": np.ones(1)}, metadata={})
    index = shards(tmp_path / "s", c=name)
    with pytest.raises(UserError, match="outside its folder, or no file of weights") as error:
        load_arrays(index)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 3}}']
)
def test_what_is_no_index_is_told(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(UserError, match="no index of a checkpoint"):
        load_arrays(tmp_path)


def test_one_shard_alone_names_what_to_give(tmp_path):
    index = shards(tmp_path)
    with pytest.raises(UserError, match=f"one shard of a checkpoint.*fix: give {index}"):
        load_arrays(tmp_path / NAMES[0])
    index.unlink()
    for path in (tmp_path / NAMES[0], tmp_path):
        with pytest.raises(UserError, match=r"fix: fetch .*index"):
            load_arrays(path)


def test_a_folder_with_one_checkpoint_is_that_and_with_two_is_not(tmp_path):
    save_arrays(tmp_path / "encoder.safetensors", {"a": np.ones(2)}, metadata={})
    (tmp_path / "config.json").write_text("{}")
    assert load_arrays(tmp_path)[0]["a"].tolist() == [1, 1]
    save_arrays(tmp_path / "other.safetensors", {"a": np.zeros(2)}, metadata={})
    with pytest.raises(
        UserError, match=r"several checkpoints.*found encoder\.safetensors, other\.safetensors"
    ):
        load_arrays(tmp_path)
    save_arrays(tmp_path / "model.safetensors", {"a": np.full(2, 3)}, metadata={})  # the usual name
    assert load_arrays(tmp_path)[0]["a"].tolist() == [3, 3]


def test_an_adapters_folder_names_the_option(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="fix: add --src_format=peft"):
        resolve(str(tmp_path))


class RemoteEntryNotFoundError(Exception):
    """Named as the hub's own error of a file that a repository does not have."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository in shards, which records what is downloaded."""
    shards(tmp_path / "remote")
    asked = []

    def hf_hub_download(repository, filename):
        asked.append(filename)
        source = tmp_path / "remote" / filename
        if not source.is_file():
            raise RemoteEntryNotFoundError(filename)
        (tmp_path / "cache").mkdir(exist_ok=True)
        target = tmp_path / "cache" / filename
        target.write_bytes(source.read_bytes())
        return str(target)

    monkeypatch.setitem(
        __import__("sys").modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download)
    )
    return asked


def test_a_hub_id_in_shards_downloads_all_of_them(hub):
    arrays, _ = load_arrays(resolve("someone/sharded"))
    assert {key: array.tolist() for key, array in arrays.items()} == {"a": [1, 1], "b": [0, 0]}
    assert [name for name in hub if "model" in name] == ["model.safetensors", INDEX, *NAMES]


def test_a_hub_id_whose_index_leaves_the_folder_downloads_nothing_more(hub, tmp_path):
    shards(tmp_path / "remote", c="../../x.safetensors")
    with pytest.raises(UserError, match="outside its folder"):
        resolve("someone/sharded")
    assert hub == ["model.safetensors", INDEX]
