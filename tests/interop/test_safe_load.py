"""Reading and writing checkpoint files as data (torch files: tests/parity/test_torch_files.py)."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop.reading.locate import resolve
from softbio_jax.interop.safe_load import load_arrays, save_arrays

ARRAYS = {
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4).T,  # not contiguous
    "float16": np.array([1.5, -2], np.float16),
    "bfloat16": np.array([[1.5], [-2]], ml_dtypes.bfloat16),
    "scalar": np.array(3, np.float32),
}


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    save_arrays(tmp_path / "a.safetensors", ARRAYS, metadata={"variant": "x"})
    read, metadata = load_arrays(tmp_path / "a.safetensors")
    assert metadata == {"variant": "x"}
    assert set(read) == set(ARRAYS)
    for key, array in ARRAYS.items():
        assert (read[key].dtype, read[key].shape) == (array.dtype, array.shape)
        assert read[key].tobytes() == array.tobytes()


def test_a_truncated_file_is_told_in_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(path, ARRAYS, metadata={})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"unreadable safetensors file: .*a\.safetensors") as error:
        load_arrays(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\xff" * 64])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="unreadable safetensors file"):
        load_arrays(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid 0", "a pointer of Git LFS; fix: .*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page; fix: download the file itself"),
        (b"PK\3\4" + bytes(90), "an archive.*fix: name it .pt or .npz"),
    ],
)
def test_another_kind_of_file_is_told_by_its_first_bytes(tmp_path, content, says):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"not a safetensors file: .*found {says}"):
        load_arrays(path)


def test_a_missing_file_a_folder_and_another_type(tmp_path):
    with pytest.raises(UserError, match=r"no such checkpoint file: .*gone\.pt.*found nothing"):
        load_arrays(tmp_path / "gone.pt")
    with pytest.raises(UserError, match=r"no checkpoint in the folder: .*found none"):
        load_arrays(tmp_path)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(UserError, match=r"unknown checkpoint file type.*'\.h5'"):
        load_arrays(tmp_path / "weights.h5")


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    with pytest.raises(Exception, match=r"(?i)dtype|type"):
        save_arrays(tmp_path / "a.safetensors", {"words": np.array(["a"])}, metadata={})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot write a checkpoint there"):
        save_arrays(tmp_path / "gone" / "a.safetensors", ARRAYS, metadata={})
    with pytest.raises(UserError, match=r"\.safetensors or \.pt"):
        save_arrays(tmp_path / "a.bin", ARRAYS, metadata={})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module."])
def test_two_names_of_one_array_are_both_told(tmp_path, prefix):
    arrays = {"model.a" if prefix.startswith("model.") else "a": np.zeros(2), f"{prefix}a": np.ones(2)}
    save_arrays(tmp_path / "a.safetensors", arrays, metadata={})
    with pytest.raises(UserError, match="two names of one array") as error:
        load_arrays(tmp_path / "a.safetensors")
    assert all(name in str(error.value) for name in arrays)


def test_of_several_levels_one_is_chosen_by_name(tmp_path):
    arrays = {"model.a": np.zeros(2), "ema.a": np.ones(2)}
    path = tmp_path / "a.safetensors"
    save_arrays(path, arrays, metadata={})
    with pytest.raises(UserError, match=r"several sets of weights.*safetensors:ema or .*safetensors:model"):
        load_arrays(path)
    for level, value in (("model", 0), ("ema", 1)):
        chosen = resolve(f"{path}:{level}")
        assert load_arrays(chosen)[0]["a"].tolist() == [value] * 2
    with pytest.raises(UserError, match=r"no such level.*expected other, found ema, model"):
        load_arrays(f"{path}:other")


def test_a_level_of_any_name_is_read_when_named(tmp_path):
    save_arrays(tmp_path / "a.safetensors", {"net.a": np.ones(2), "probe.a": np.zeros(2)}, metadata={})
    assert set(load_arrays(tmp_path / "a.safetensors")[0]) == {"net.a", "probe.a"}
    assert load_arrays(f"{tmp_path}/a.safetensors:probe")[0]["a"].tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_float8_is_refused_in_one_line(tmp_path, kind):
    header = json.dumps({"a": {"dtype": kind, "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(UserError, match=f"key a: .*found {kind}"):
        load_arrays(tmp_path / "a.safetensors")
