"""Hub ids: which file of which repository, and what a user is told when it cannot be had."""

import json
import os
import re
import subprocess
import sys
import types

import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import formats, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.reading import identity
from softbio_jax.interop.reading.locate import check_source, resolve
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import VISION
from tests.inference.hub_server import environment, serve


class EntryNotFoundError(Exception):
    """As huggingface_hub's."""


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for huggingface_hub that records what was asked of it."""
    asked = []

    def hf_hub_download(repository, filename):
        asked.append((repository, filename))
        if repository.startswith("gone/"):
            raise OSError("offline, and not in the cache")
        if repository.startswith("peft/") and filename != "adapter_config.json":
            raise EntryNotFoundError(filename)
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
    assert hub[0] == (source, filename)
    beside = [name for _, name in hub[1:]]
    assert beside == ([] if filename.endswith(".pt") else ["config.json", "preprocessor_config.json"])


TIMM = {
    "architecture": "vit_small_patch14_dinov2",
    "pretrained_cfg": {"tag": "lvd142m", "mean": [0.485, 0.456, 0.406]},
}
TRANSFORMERS = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 3, "patch_size": 8}
OPEN_CLIP = {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_pe_core_base_patch16_224"}, "text_cfg": {}}}
SCRIPT = """
import sys
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.errors import UserError
from softbio_jax.interop.reading import identity, locate
from softbio_jax.models.config import vision_config
try:
    variant = identity.variant_of(sys.argv[1])
    print(variant, load_pretrained(sys.argv[1], config=vision_config(variant))["encoder"].keys() >= {"trunk"})
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("repository", "files", "told"),
    [
        (
            "timm/vit_small_patch14_dinov2.lvd142m",
            {"config.json": TIMM},
            "checkpoint of tiny-dinov2 given for dinov2-s14",  # the tiny encoder is served
        ),
        ("me/dinov2-tiny", {"config.json": TRANSFORMERS}, "^tiny-dinov2 True"),
        (
            "me/dinov2-tiny",
            {"config.json": TRANSFORMERS, "preprocessor_config.json": {"image_mean": [0.5, 0.5, 0.5]}},
            "another normalisation.*image_mean",
        ),
        ("me/other", {"config.json": {"model_type": "swin"}}, "variant is not known.*found swin"),
        ("me/clip", {"open_clip_config.json": OPEN_CLIP}, "tiny-dinov2 given for PE-Core-B16-224"),
        ("me/clip", {"config.json": TRANSFORMERS, "open_clip_config.json": OPEN_CLIP}, "^tiny-dinov2 True"),
    ],
)
def test_the_hubs_own_configuration_names_variant_and_preprocessing(tmp_path, repository, files, told):
    config = VISION["tiny-dinov2"]
    format_ = formats.of(config, "timm")
    state = named_state(official.vision_shapes(config))
    save_arrays(tmp_path / "a.safetensors", format_.from_official(state), metadata={})
    with serve(repository) as server:
        server.store["files"] = {name: json.dumps(values).encode() for name, values in files.items()}
        server.store["files"]["model.safetensors"] = (tmp_path / "a.safetensors").read_bytes()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, repository],
            env=environment(server, tmp_path / "hub")
            | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu", "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
    assert re.search(told, done.stdout), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1


def test_auto_needs_weights():
    with pytest.raises(UserError, match="no weights to find the variant by"):
        identity.variant_of("")


def test_what_cannot_be_fetched_is_one_line(hub):
    with pytest.raises(UserError, match=r"cannot fetch from the hub: gone/PE:model\.safetensors"):
        resolve("gone/PE")


@pytest.mark.parametrize("source", ["peft/faces", "peft/PE-Core-B16-224"])
def test_an_adapter_is_no_encoder(source, hub):
    with pytest.raises(
        UserError,
        match=f"an adapter, not an encoder: {source}: .*--base=ENCODER to scripts/convert.py --src={source},",
    ):
        resolve(source)


def test_what_cannot_be_read_is_reported_without_reading_it(tmp_path, hub, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="an adapter, not an encoder"):
        check_source(str(tmp_path))
    check_source("facebook/PE-Core-L14-336")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # makes the import fail
    with pytest.raises(UserError, match=r"pip install 'softbio-jax\[hub\]'"):
        check_source("facebook/PE-Core-L14-336")
    assert hub == []


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", ""])
def test_a_hub_that_cannot_be_reached_is_asked_once(name, monkeypatch):
    """Each time takes half a minute of retries; another name may be in the cache."""
    asked = []

    class LocalEntryNotFoundError(Exception):
        """As huggingface_hub's."""

    def hf_hub_download(repository, filename, local_files_only=False):
        asked.append(local_files_only)
        if filename != name:
            raise LocalEntryNotFoundError(filename)
        return f"/cache/{filename}"

    module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    if name:
        assert str(resolve("someone/else")) == f"/cache/{name}"
    else:
        with pytest.raises(UserError, match=r"cannot fetch from the hub: .*LocalEntryNotFoundError"):
            resolve("someone/else")
    assert len(asked) > 2 and asked.count(False) == 1


def test_a_run_is_no_encoder(tmp_path, hub):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match=rf"a run, not an encoder: .*export\.py --model={tmp_path} --format=safe"
    ):
        resolve(str(tmp_path))


def test_neither_a_file_nor_an_id(hub):
    with pytest.raises(UserError, match="no such checkpoint: no file here"):
        resolve("no file here")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # makes the import fail
    with pytest.raises(UserError, match=r"pip install 'softbio-jax\[hub\]'"):
        resolve("facebook/PE-Core-L14-336")
