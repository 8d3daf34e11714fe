"""The thesis' torch files through scripts/convert.py: MTLoRA folders, and nested flat files."""

import numpy as np
import pytest
import torch

from softbio_jax.interop import adapter_files, peft
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.models.config import vision_config
from softbio_jax.thesis import files
from tests.interop.test_adapter_files import legacy_key, same, trained
from tests.interop.test_commands import run
from tests.parity.test_thesis_files import drawn
from tests.parity.test_thesis_files import towers as small

pytestmark = pytest.mark.parity
CONFIG = vision_config("tiny-test")


@pytest.mark.parametrize("name", ["dora", "mtlora"])
def test_a_folder_through_our_layout_and_back(name, tmp_path):
    model, params, stats = drawn(name)
    there, ours, back = tmp_path / "a", tmp_path / "b.safetensors", tmp_path / "c"
    files.write(there, adapter_files.of_model(params, stats, model.adapters), small.TASK_SPECS)
    for src, src_format, dst, dst_format in (
        (there, "thesis", ours, "softbio"),
        (ours, "softbio", back, "thesis"),
    ):
        done = run(
            "convert", src=src, src_format=src_format, dst=dst, dst_format=dst_format, variant="tiny-test"
        )
        assert done.returncode == 0, done.stderr
        assert "heads: age, gender, emotion" in done.stdout
    for name in (peft.WEIGHTS, files.CUSTOM):
        expected, found = load_arrays(there / name)[0], load_arrays(back / name)[0]
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array, err_msg=key)
    refused = run(
        "convert", src=there, src_format="thesis", dst=tmp_path / "d", dst_format="peft", variant="tiny-test"
    )
    assert refused.returncode == 1 and "PEFT has no place for heads" in refused.stderr


def test_a_nested_legacy_file_of_torch(tmp_path):
    checkpoint = trained()
    adapter_files.write(tmp_path / "new.pt", checkpoint, CONFIG, "thesis")
    nested = {}
    for key, tensor in torch.load(tmp_path / "new.pt", weights_only=True).items():
        part, _, rest = legacy_key(key).partition(".")
        if rest:
            nested.setdefault(part, {})[rest] = tensor
        else:
            nested[part] = tensor
    assert {"backbone_state_dict", "prediction_layers", "attn_pool"} <= nested.keys()
    torch.save(nested, tmp_path / "old.pt")
    same(checkpoint, adapter_files.read(tmp_path / "old.pt", CONFIG, "thesis"))
