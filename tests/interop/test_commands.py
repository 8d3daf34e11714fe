"""The commands convert and parity as a user runs them."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from tests.interop.test_peft_files import QKV, drawn, saved

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(script, **flags):
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py")]
    command += [f"--{name}={value}" for name, value in flags.items()]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def official(tmp_path):
    """An official checkpoint of both towers."""
    path = tmp_path / "official.safetensors"
    save_arrays(path, named_state(formats.official_shapes("tiny-test", text=True)), metadata={})
    return path


def convert(src, dst, dst_format, **flags):
    return run("convert", src=src, dst=dst, dst_format=dst_format, variant="tiny-test", **flags)


def test_through_our_layout_and_back_is_bit_identical(official, tmp_path):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    there = convert(official, ours, "softbio", src_format="official")
    assert there.returncode == 0, there.stderr
    assert "tiny-test as softbio" in there.stdout
    assert load_arrays(ours)[1] == {"format": "softbio", "variant": "tiny-test"}
    assert convert(ours, back, "official").returncode == 0
    expected, found = load_arrays(official)[0], load_arrays(back)[0]
    assert set(found) == set(expected)
    assert all(found[key].tobytes() == expected[key].tobytes() for key in expected)


def test_a_mismatch_is_one_line_and_writes_nothing(official, tmp_path):
    state = load_arrays(official)[0]
    state["visual.proj"] = np.full_like(state["visual.proj"], np.inf)
    broken = tmp_path / "broken.safetensors"
    save_arrays(broken, state, metadata={})
    done = convert(broken, tmp_path / "out.safetensors", "timm", vision_only="true")
    assert done.returncode == 1
    assert done.stderr.startswith("error: infinities or NaN")
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"official.safetensors", broken.name}


def test_a_text_tower_is_left_out_only_when_asked(official, tmp_path):
    out = tmp_path / "timm.safetensors"
    refused = convert(official, out, "timm")
    assert refused.returncode == 1 and "add --vision_only" in refused.stderr
    assert not out.exists()
    assert convert(official, out, "timm", vision_only="true").returncode == 0
    assert "head.bias" in load_arrays(out)[0]
    again = convert(official, out, "timm", vision_only="true")
    assert again.returncode == 1 and "the destination exists" in again.stderr


def test_an_adapter_of_peft_needs_no_format(tmp_path):
    saved(tmp_path / "adapter", drawn(QKV))
    for number, source in enumerate(("adapter", "adapter/adapter_model.safetensors")):
        out = tmp_path / f"{number}.safetensors"
        done = convert(tmp_path / source, out, "softbio")
        assert done.returncode == 0, done.stderr
        assert "tiny-test adapters as softbio, 1 layers" in done.stdout


def test_the_ladder_against_goldens():
    done = run("parity", variant="tiny-faces", reference="goldens", size="36x60")
    assert done.returncode == 0, done.stderr
    stages = [line.split()[0] for line in done.stdout.splitlines()[2:-2]]
    blocks = [f"block_{i:02d}" for i in (1, 2, 3, 4)]
    assert stages[:4] == ["rotary", "patches", "positions", "pre"]
    assert stages[4:] == [*blocks, "tokens", "pooled", "embedding", "embedding_normalised"]
    assert done.stdout.splitlines()[-1] == "every stage agrees"


def test_the_ladder_names_the_first_tensor_that_diverges(tmp_path):
    stored = dict(np.load(ROOT / "tests" / "goldens" / "tiny-faces-at-36x60.npz"))
    stored["block_03"][0] += 1
    stored["pooled"][0] += 1
    np.savez(tmp_path / "tiny-faces-at-36x60.npz", **stored)
    done = run("parity", variant="tiny-faces", reference="goldens", size="36x60", goldens=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "first to diverge: block_03"
    assert done.stdout.count("DIVERGES") == 2


def test_mistakes_on_the_command_line_are_one_line():
    for flags, message in (
        ({"variant": "PE-Core-X"}, "unknown variant"),
        ({"size": "big"}, "not an image size"),
        ({"reference": "official", "checkout": "/nowhere"}, "no checkout of perception_models"),
        ({"reference": "goldens", "seed": 1}, "stored outputs are of drawn weights"),
        ({"reference": "goldens", "size": "64x64"}, "no stored golden"),
        ({"dtype": "float64"}, "no comparison in this type"),
        ({"method": "lora"}, "a flag does not apply"),
        ({"training": True, "reference": "goldens"}, "a flag does not apply"),
        ({"training": True, "size": "32x40"}, "training is compared on square images"),
    ):
        done = run("parity", **({"variant": "tiny-faces"} | flags))
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {message}")
        assert len(done.stderr.strip().splitlines()) == 1
