"""Weights that are made to take all memory, or to run something."""

import json
import os
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from softbio_jax.errors import UserError
from softbio_jax.interop.safe_load import load_arrays

HEADERS = {
    "huge": struct.pack("<Q", 2**62) + b"{}",
    "of 100 MB": struct.pack("<Q", 100_000_001) + b"{}",
    "longer than the file": struct.pack("<Q", 1000) + b"{}",
    "nested": struct.pack("<Q", 100_000) + b"[" * 100_000,
}


def header(values, data=b""):
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text + data


HEADERS |= {
    "of a large tensor": header(
        {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    ),
    "of an overflow": header({"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}),
    "of two tensors on the same bytes": header(
        {n: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)
    ),
    "of a negative shape": header({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 8]}}, bytes(8)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_safetensors_that_lie_are_one_line(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="unreadable safetensors file") as caught:
        load_arrays(path)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def saved(path, tree):
    torch = pytest.importorskip("torch")
    torch.save(tree(torch), path)
    return path


def expanded(torch):
    return {"a": torch.zeros(1).expand(10**5, 10**5)}


def laughing(torch):
    tree = {"a": torch.zeros(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    return {"state_dict": tree}


def many_views(torch):
    whole = torch.zeros(10**6)
    return {f"a{i}": whole for i in range(1000)}


@pytest.mark.parity
@pytest.mark.parametrize("tree", [expanded, laughing, many_views], ids=lambda tree: tree.__name__)
def test_tensors_and_containers_that_repeat_themselves_are_refused(tmp_path, tree):
    path = saved(tmp_path / "a.pt", tree)
    with pytest.raises(UserError, match="more than the file holds") as caught:
        load_arrays(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parity
def test_tied_weights_are_read(tmp_path):
    def tied(torch):
        weight = torch.arange(1_000_000.0)
        return {"a": weight, "b": weight, "c": weight[:10]}

    arrays, _ = load_arrays(saved(tmp_path / "a.pt", tied))
    np.testing.assert_array_equal(arrays["a"], arrays["b"])


@pytest.mark.parity
def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path):
    path = saved(tmp_path / "a.pt", lambda torch: {"a": torch.zeros(10_000_000)})
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in source.namelist():
            out.writestr(name, source.read(name))
    path.unlink()
    with pytest.raises(UserError, match="compressed"):
        load_arrays(tmp_path / "b.pt")


class Runs:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parity
@pytest.mark.parametrize(
    "where", [lambda x: x, lambda x: {"a": [x]}, lambda x: {"a": {"b": (x,)}}], ids=range(3)
)
def test_pickles_in_containers_and_in_archives_run_nothing(tmp_path, monkeypatch, where):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(pickle.dumps(where(Runs())))
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as out:
        out.writestr("b/data.pkl", pickle.dumps(where(Runs())))
        out.writestr("b/version", "3\n")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UserError):
            load_arrays(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_a_plain_file_is_read(tmp_path):
    safetensors.numpy.save_file({"a": np.arange(4.0)}, tmp_path / "a.safetensors")
    assert load_arrays(tmp_path / "a.safetensors")[0]["a"].sum() == 6
