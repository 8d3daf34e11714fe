"""Reading and writing checkpoint files as data (torch files: tests/parity/test_torch_files.py)."""

import ml_dtypes
import numpy as np
import pytest

from softbio_jax.errors import UserError
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


def test_a_missing_file_a_folder_and_another_type(tmp_path):
    with pytest.raises(UserError, match=r"no such checkpoint file: .*gone\.pt.*found nothing"):
        load_arrays(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="found a folder"):
        load_arrays(tmp_path)
    (tmp_path / "weights.npz").touch()
    with pytest.raises(UserError, match=r"unknown checkpoint file type.*'\.npz'"):
        load_arrays(tmp_path / "weights.npz")


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    with pytest.raises(Exception, match=r"(?i)dtype|type"):
        save_arrays(tmp_path / "a.safetensors", {"words": np.array(["a"])}, metadata={})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot write a checkpoint there"):
        save_arrays(tmp_path / "gone" / "a.safetensors", ARRAYS, metadata={})
    with pytest.raises(UserError, match=r"\.safetensors or \.pt"):
        save_arrays(tmp_path / "a.bin", ARRAYS, metadata={})
