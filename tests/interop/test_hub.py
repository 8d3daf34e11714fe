"""Hub ids: which file of which repository, and what a user is told when it cannot be had."""

import sys
import types

import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop.reading.locate import resolve


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for huggingface_hub that records what was asked of it."""
    asked = []

    def hf_hub_download(repository, filename):
        asked.append((repository, filename))
        if repository.startswith("gone/"):
            raise OSError("offline, and not in the cache")
        return f"/cache/{filename}"

    module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_file_is_itself(tmp_path, hub):
    (tmp_path / "a.pt").touch()
    assert resolve(str(tmp_path / "a.pt")) == tmp_path / "a.pt"
    assert hub == []


def test_a_path_that_is_missing_is_no_hub_id(hub):
    # load_arrays tells that it is missing; a name with such an ending is never fetched.
    assert resolve("models/tower.safetensors").name == "tower.safetensors"
    assert hub == []


@pytest.mark.parametrize(
    ("source", "filename"),
    [
        ("facebook/PE-Core-L14-336", "PE-Core-L14-336.pt"),
        ("facebook/PE-Spatial-T16-512", "PE-Spatial-T16-512.pt"),
        ("timm/vit_pe_core_large_patch14_336.fb", "model.safetensors"),
    ],
)
def test_hub_ids_name_the_published_file(hub, source, filename):
    assert str(resolve(source)) == f"/cache/{filename}"
    assert hub == [(source, filename)]


def test_what_cannot_be_fetched_is_one_line(hub):
    with pytest.raises(UserError, match=r"cannot fetch from the hub: gone/PE:model\.safetensors"):
        resolve("gone/PE")


def test_neither_a_file_nor_an_id(hub):
    with pytest.raises(UserError, match="no such checkpoint: no file here"):
        resolve("no file here")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # makes the import fail
    with pytest.raises(UserError, match=r"pip install 'softbio-jax\[hub\]'"):
        resolve("facebook/PE-Core-L14-336")
