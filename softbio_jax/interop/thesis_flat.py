"""The thesis' flat files: trained tower parameters and heads, of LP, AP and FT, without adapters.

Two layouts are read: one flat state dict (`backbone.*`, `prediction_layers.Age.*`, `log_vars`),
and the older one of three (`backbone_state_dict`, `prediction_layers`, `attn_pool`), whose keys
start with `strategy.backbone.` and `heads.age.` and whose last layer is number 5 of the head, 4
in the newer. The newer is written.

Facts of the layouts are those of github.com/Antuke/PE_PEFT_FT, `src/model.py`.
"""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS
from softbio_jax.errors import UserError
from softbio_jax.interop import official
from softbio_jax.interop.adaptation import Adaptation
from softbio_jax.interop.keymap import shapes_of
from softbio_jax.interop.peft_layers import Adapter
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.interop.strict import check_finite
from softbio_jax.interop.torch_heads import Source, read_head, write_head
from softbio_jax.models.config import VISION, VisionConfig
from softbio_jax.params.paths import flatten, unflatten
from softbio_jax.tasks import TASKS

Arrays = Mapping[str, np.ndarray]
_LOG_VARS = "log_vars"  # log sigma^2, in the tasks' order
_LEGACY = (
    (r"(?:backbone_state_dict\.|attn_pool\.)?strategy\.backbone\.(.+)", r"backbone.\1"),
    (r"(?:prediction_layers\.)?heads\.(.+)", r"prediction_layers.\1"),
    (r"(?:backbone_state_dict|attn_pool)\.(backbone\..+)", r"\1"),
)
# The thesis' towers hold the blocks' fused projection as a module.
_IN_PROJ = re.compile(r"(transformer\.resblocks\.\d+\.attn\.in_proj)([._])(weight|bias)")


def read(path: str | pathlib.Path, config: VisionConfig) -> Adaptation:
    """Reads a flat file; its `leaves` are the trained ones of a tower, one entry a block.

    Raises:
      UserError: unreadable, another variant's, or a key that belongs to neither layout.
    """
    where = str(path)
    arrays, _ = load_arrays(path)
    check_finite(arrays, where=where)
    arrays = {_newer(key): array for key, array in arrays.items()}
    tower = {
        "visual." + _IN_PROJ.sub(r"\1_\3", key.removeprefix("backbone.")): array
        for key, array in arrays.items()
        if key.startswith("backbone.")
    }
    _check(tower, config, where)
    leaves = dict(official.OFFICIAL.forward(tower))
    stats: dict[str, np.ndarray] = {}
    used = {key for key in arrays if key.startswith("backbone.")}
    for name, task in TASKS.items():
        prefix = f"prediction_layers.{name.capitalize()}."
        own = {key for key in arrays if key.startswith(prefix)}
        if own:
            head, head_stats = read_head(Source(arrays, where), task)
            leaves |= head
            stats |= head_stats
            used |= own
    if _LOG_VARS in arrays:
        values = dict(zip(TASKS, arrays[_LOG_VARS], strict=False))
        leaves |= {f"balance/{name}/log_var": np.asarray(value) for name, value in values.items()}
        used.add(_LOG_VARS)
    if unknown := sorted(set(arrays) - used):
        raise UserError("not a tensor of a trained model of the thesis", where=where,
                        expected="backbone.*, prediction_layers.* and log_vars",
                        found=", ".join(unknown[:3]),
                        fix="give its folder, if it has adapters")  # fmt: skip
    return Adaptation(
        adapter=Adapter(layers={}), leaves=leaves, batch_stats=unflatten(stats),
        rules=NO_ADAPTERS, tail=0,
    )  # fmt: skip


def write(path: str | pathlib.Path, checkpoint: Adaptation) -> None:
    """Writes a flat file in the newer layout.

    Raises:
      UserError: there are adapters, or the ending is neither .pt nor .safetensors.
    """
    if checkpoint.adapter.layers:
        raise UserError("adapters do not go into a flat file", where=str(path),
                        expected="a folder", found=f"{len(checkpoint.adapter.layers)} adapters",
                        fix="name a folder, without an ending")  # fmt: skip
    leaves = dict(checkpoint.leaves)
    stats = {key: np.asarray(leaf) for key, leaf in flatten(checkpoint.batch_stats).items()}
    tower = {
        key: leaf for key, leaf in leaves.items() if not key.startswith(("heads/", "balance/"))
    }
    arrays = {
        "backbone." + _IN_PROJ.sub(r"\1.\3", key): array
        for key, array in official.drop_prefix(official.OFFICIAL.backward(tower)).items()
    }
    for name, task in TASKS.items():
        if any(key.startswith(f"heads/{name}/") for key in leaves):
            head = write_head(leaves, stats, task)
            arrays |= {f"prediction_layers.{key}": array for key, array in head.items()}
    logs = [leaves.get(f"balance/{name}/log_var") for name in TASKS]
    if any(log is not None for log in logs):
        arrays[_LOG_VARS] = np.array([0.0 if log is None else log for log in logs], np.float32)
    save_arrays(path, arrays, metadata={"format": "pt"})


def _newer(key: str) -> str:
    for pattern, newer in _LEGACY:
        if match := re.fullmatch(pattern, key):
            key = match.expand(newer)
            break
    if match := re.fullmatch(r"prediction_layers\.([a-z]+)\.(\d+)\.(.+)", key):
        task, place, leaf = match.groups()
        return f"prediction_layers.{task.capitalize()}.{'4' if place == '5' else place}.{leaf}"
    return key


def _check(tower: Arrays, config: VisionConfig, where: str) -> None:
    """Raises unless every key is one of the variant's, with its shape."""
    found = shapes_of(tower)
    expected = official.vision_shapes(config)
    wrong = [key for key, shape in found.items() if expected.get(key) != shape]
    if not wrong:
        return
    fits = [
        name for name, other in VISION.items()
        if found.items() <= official.vision_shapes(other).items()
    ]  # fmt: skip
    first = f"{wrong[0].removeprefix('visual.')} {found[wrong[0]]}"
    raise UserError("checkpoint of another variant" if fits else "keys that the tower has not",
                    where=where, expected=config.name,
                    found=f"{first}, as in {', '.join(fits)}" if fits else first,
                    fix="name the variant it was trained on")  # fmt: skip
