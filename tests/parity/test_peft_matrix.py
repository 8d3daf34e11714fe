"""Every kind of adapter in docs/parity.md: folded as PEFT merges it, or refused in one line."""

import json
import os
import pathlib
import re
import warnings

import numpy as np
import peft
import pytest
import torch

from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from tests.parity.peft_kinds import FILE, made
from tests.parity.peft_table import KINDS
from tests.parity.torch_towers import CONFIG, official_both, official_state

ROOT = pathlib.Path(__file__).resolve().parents[2]
# PEFT's merge and ours are each within float32's rounding of weights up to about 2.
BOUND = 2e-6
RESULTS: dict[str, dict] = {}


def merged_by_peft(model):
    """The official weights of a PEFT model after merge_and_unload."""
    state = {}
    for key, value in model.merge_and_unload().state_dict().items():
        key = key.replace("_orig_mod.", "").replace("module.", "")
        for start in ("backbone.", "timm_model.", "visual.trunk."):
            key = key.removeprefix(start)
        state[key] = value.numpy().copy()
    if "patch_embed.proj.weight" in state:
        return OFFICIAL_TO_TIMM.backward(state)
    if any(key.startswith("visual.") for key in state):
        return state
    return {f"visual.{key}": value for key, value in state.items()}


def outcome(name, folder):
    """What we make of a kind, and how far it is from PEFT's weights."""
    kind = KINDS[name]
    both = kind.base is official_both
    base = official_state(text=both)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = made(kind, folder)
        try:
            adaptation = adapter_files.read(folder, CONFIG, "peft", tower=kind.tower)
            ours = adapter_files.into_tower(adaptation, base)
        except UserError as error:
            assert "\n" not in str(error) and "; fix: " in str(error)
            return {"result": "refused", "message": str(error).replace(str(folder), "adapter")}
        if kind.wanted == FILE:
            model = peft.PeftModel.from_pretrained(kind.base(), folder)
        theirs = merged_by_peft(model)
    assert ours.keys() == theirs.keys()
    moved = max(float(np.abs(theirs[key] - base[key]).max()) for key in base)
    difference = max(float(np.abs(theirs[key] - ours[key]).max()) for key in base)
    return {
        "result": "equal" if difference <= BOUND else "different",
        "difference": difference,
        "moved": moved,
    }


@pytest.mark.parametrize("name", KINDS)
def test_equal_or_refused(name, tmp_path):
    found = outcome(name, tmp_path / "adapter")
    RESULTS[name] = found
    assert found["result"] == ("refused" if KINDS[name].wanted is None else "equal"), found
    assert found["result"] == "refused" or found["moved"] > 0.01


def test_the_page_lists_these_kinds_and_results():
    page = (ROOT / "docs/parity.md").read_text().partition("<!-- table: kinds -->")[2]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| (equal|refused) \|", page, re.MULTILINE)
    expected = [(name, "refused" if kind.wanted is None else "equal") for name, kind in KINDS.items()]
    assert rows == expected, "run python scripts/dev/peft_matrix.py"


@pytest.fixture(scope="module", autouse=True)
def recorded():
    """Writes the results for scripts/dev/peft_matrix.py."""
    yield
    if path := os.environ.get("PEFT_MATRIX"):
        about = {"peft": peft.__version__, "torch": torch.__version__.split("+")[0]}
        kinds = {name: {"group": KINDS[name].group} | found for name, found in RESULTS.items()}
        pathlib.Path(path).write_text(json.dumps(about | {"kinds": kinds}))
