"""What training adds to a tower, in every layout: PEFT's, the thesis' and ours.

The layouts meet in `adaptation.Adaptation`: adapters by layer, and other leaves by path. Ours is
one safetensors file of leaves by the paths they have in a run, one entry a block.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig, TaskRules
from softbio_jax.errors import UserError
from softbio_jax.interop import official, peft, stacking
from softbio_jax.interop.keymap import check_finite
from softbio_jax.interop.peft_layers import Adapter, Layer, check_variant
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VisionConfig
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.tasks import TASKS, TaskSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Shared adapters by layer, and whatever else was trained by its path.

    Args:
      adapter: the shared adapters, one entry a block.
      leaves: path -> array: heads, balancing, trained weights, MTLoRA's block and pooling.
      batch_stats: the heads' running statistics.
      rules: those of a model that takes it all.
      tail: that model's number of last blocks kept apart.
    """

    adapter: Adapter
    leaves: Mapping[str, np.ndarray]
    batch_stats: Tree
    rules: AdapterRules
    tail: int


def of_model(params: Tree, batch_stats: Tree, rules: AdapterRules) -> Adaptation:
    """Returns what a model with shared adapters, or MTLoRA, adds to its tower.

    Args:
      params: a model's nested dict of arrays; its plain weights are leaves like the others.
      batch_stats: the heads' running statistics.
      rules: the rules the model was built with.
    """
    return Adaptation(
        adapter=peft.collect(params, rules),
        leaves={path: np.asarray(leaf) for path, leaf in flatten(params).items()},
        batch_stats=batch_stats,
        rules=rules,
        tail=int(rules.per_task is not None),
    )


def attach(params: Tree, adaptation: Adaptation) -> Tree:
    """Returns a tower's params, of the adaptation's tail, with all that it adds."""
    return unflatten(flatten(peft.attach(params, adaptation.adapter)) | dict(adaptation.leaves))


LAYOUTS = ("peft", "thesis", "softbio")
_KIND = "softbio-adapter"
_STATS = "batch_stats/"


def is_ours(path: pathlib.Path) -> bool:
    """Tells whether a file holds adapters in our layout, rather than a tower."""
    return path.suffix == ".safetensors" and load_arrays(path)[1].get("format") == _KIND


def read(path: pathlib.Path, config: VisionConfig, layout: str) -> Adaptation:
    """Reads adapters and heads.

    Args:
      path: a folder of PEFT or of the thesis, a flat file of the thesis, or a file of ours.
      config: the variant.
      layout: one of `LAYOUTS`.

    Raises:
      UserError: unreadable, of another variant, or of another layout.
    """
    from softbio_jax.thesis import files

    match layout:
        case "peft":
            adapter = peft.read(path, config)
            return Adaptation(
                adapter=adapter,
                leaves={},
                batch_stats={},
                rules=adapter.rules(config),
                tail=adapter.tail(config),
            )
        case "thesis" if path.is_dir():
            return files.read(path, config, _heads_of_folder(path))
        case "thesis":
            return files.read_flat(path, config)
    return _read_ours(path, config)


def write(path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig, layout: str) -> None:
    """Writes adapters and heads.

    Args:
      path: a folder for peft, a file for softbio; for the thesis a folder, or with an ending a
        flat file.
      checkpoint: what to write.
      config: the variant.
      layout: one of `LAYOUTS`.

    Raises:
      UserError: the layout has no place for a part.
    """
    from softbio_jax.thesis import files

    match layout:
        case "peft":
            if checkpoint.leaves:
                raise UserError(
                    "PEFT has no place for heads and trained tower weights",
                    where=str(path),
                    expected="adapters alone",
                    found=", ".join(list(checkpoint.leaves)[:3]),
                    fix="add --vision_only, or name another --dst_format",
                )
            peft.write(path, checkpoint.adapter, base_model=config.name)
        case "thesis" if path.suffix in (".pt", ".safetensors"):
            files.write_flat(path, checkpoint)
        case "thesis":
            files.save(path, checkpoint, tasks_of(checkpoint))
        case _:
            _write_ours(path, checkpoint, config)


def without_heads(checkpoint: Adaptation) -> Adaptation:
    """Returns what is the tower's, without heads and balancing."""
    leaves = {
        path: leaf for path, leaf in checkpoint.leaves.items() if not path.startswith(("heads/", "balance/"))
    }
    return dataclasses.replace(checkpoint, leaves=leaves, batch_stats={})


def tasks_of(checkpoint: Adaptation) -> list[TaskSpec]:
    """Returns the tasks that have a head."""
    heads = {path.split("/")[1] for path in checkpoint.leaves if path.startswith("heads/")}
    return [task for name, task in TASKS.items() if name in heads]


def into_tower(checkpoint: Adaptation, tower: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a vision tower with adapters folded in and trained weights in their places.

    Args:
      checkpoint: without heads.
      tower: official keys, `visual.` alone.

    Raises:
      UserError: MTLoRA's own block and pooling, which fold into no single tower.
    """
    plain = official.OFFICIAL.forward(tower) | dict(checkpoint.leaves)
    if checkpoint.rules.per_task is not None:
        raise UserError(
            "MTLoRA's last block and pooling fold into no single tower",
            where="--base",
            expected="LoRA, DoRA, or trained weights",
            found="per-task adapters",
            fix="write it as softbio",
        )
    params = unflatten(stacking.stack(plain, tail=checkpoint.tail))
    params = peft.attach(params, checkpoint.adapter)
    return official.add_prefix(peft.merged(params, checkpoint.rules))


def _heads_of_folder(folder: pathlib.Path) -> list[TaskSpec]:
    arrays, _ = load_arrays(folder / files.CUSTOM)
    found = {key.split(".")[1] for key in arrays if key.startswith("prediction_layers.")}
    known = {name.capitalize(): task for name, task in TASKS.items()}
    if strange := sorted(found - known.keys()):
        raise UserError(
            "head of an unknown task",
            where=str(folder / files.CUSTOM),
            expected=", ".join(known),
            found=", ".join(strange),
            fix="remove it from the file",
        )
    return [task for title, task in known.items() if title in found]


def _write_ours(path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig) -> None:
    arrays = {name: np.asarray(leaf) for name, leaf in checkpoint.leaves.items()}
    for layer, adapter in checkpoint.adapter.layers.items():
        arrays |= {f"{layer}/lora_a": adapter.a, f"{layer}/lora_b": adapter.b}
        if adapter.magnitude is not None:
            arrays[f"{layer}/dora_magnitude"] = adapter.magnitude
    stats = flatten(checkpoint.batch_stats)
    arrays |= {_STATS + name: np.asarray(leaf) for name, leaf in stats.items()}
    layers = {
        layer: dataclasses.asdict(adapter.config) for layer, adapter in checkpoint.adapter.layers.items()
    }
    own = checkpoint.rules.per_task
    notes = {"format": _KIND, "variant": config.name, "layers": json.dumps(layers)}
    if own is not None:
        notes["per_task"] = json.dumps(dataclasses.asdict(own))
    save_arrays(path, arrays, metadata=notes)


def _read_ours(path: pathlib.Path, config: VisionConfig) -> Adaptation:
    arrays, notes = load_arrays(path)
    where = str(path)
    check_finite(arrays, where=where)
    if notes.get("variant") != config.name:
        raise UserError(
            "adapter of another variant",
            where=where,
            expected=config.name,
            found=notes.get("variant", "none noted"),
            fix="name the variant it was trained on",
        )
    try:
        layers = {
            layer: Layer(
                config=LoRAConfig(**values),
                a=arrays.pop(f"{layer}/lora_a"),
                b=arrays.pop(f"{layer}/lora_b"),
                magnitude=arrays.pop(f"{layer}/dora_magnitude", None),
            )
            for layer, values in json.loads(notes["layers"]).items()
        }
        own = json.loads(notes.get("per_task", "null"))
        per_task = None if own is None else TaskRules.from_json(own)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "adapter file without its settings",
            where=where,
            expected="what scripts/convert.py wrote",
            found=str(error),
            fix="convert it again",
        ) from error
    check_variant(layers, config, where=where)
    stats = {key: arrays.pop(key) for key in list(arrays) if key.startswith(_STATS)}
    adapter = Adapter(layers=layers)
    rules = adapter.rules(config) if layers else NO_ADAPTERS
    return Adaptation(
        adapter=adapter,
        leaves=arrays,
        batch_stats=unflatten({key.removeprefix(_STATS): leaf for key, leaf in stats.items()}),
        rules=dataclasses.replace(rules, per_task=per_task),
        tail=1 if per_task else adapter.tail(config),
    )
