"""What training adds to an encoder, in every file format: PEFT's, our own and registered ones.

The formats meet in `Adaptation`: adapters by layer, and other leaves by path. Our own is one
safetensors file of leaves by the paths they have in a run, one entry per block.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig, TaskRules
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.interop import official, peft, stacking
from softbio_jax.interop.keymap import check_finite
from softbio_jax.interop.peft_layers import Adapter, Layer, check_variant
from softbio_jax.interop.peft_parts import folding
from softbio_jax.interop.peft_parts.names import Naming, Tower
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VisionConfig
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.registry import Registry
from softbio_jax.tasks import TASKS, TaskSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Shared adapters by layer, and everything else that was trained by its path.

    Args:
      adapter: the shared adapters, one entry per block.
      leaves: path -> array: heads, balancing, trained weights, MTLoRA's block and pooling.
      batch_stats: the heads' running statistics.
      rules: of a model with these adapters.
      tail: that model's number of last blocks kept apart.
    """

    adapter: Adapter
    leaves: Mapping[str, np.ndarray]
    batch_stats: Tree
    rules: AdapterRules
    tail: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFormat:
    """How an `Adaptation` of a variant is read from a path and written to one."""

    read: Callable[[pathlib.Path, VisionConfig], Adaptation]
    write: Callable[[pathlib.Path, Adaptation, VisionConfig], None]


ADAPTER_FORMATS = Registry[AdapterFormat](
    "adapter format", where="--dst_format", group="softbio_jax.adapter_formats"
)
_KIND, _PEFT = "softbio-adapter", "peft"
_STATS = "batch_stats/"
_TEXT, _HEADS = ("text/", "logit_"), ("heads/", "balance/", "distill/")


def read(
    path: pathlib.Path, config: VisionConfig, format_name: str, *, tower: Tower | None = None
) -> Adaptation:
    """Reads adapters and heads in one of `ADAPTER_FORMATS`: a folder for peft, a file for softbio.

    tower is the encoder of a peft adapter, where its file leaves a doubt.

    Raises:
      UserError: unreadable, of another variant, or of another format.
    """
    if format_name == _PEFT:
        return _of_peft(peft.read(path, config, tower=tower), config)
    if tower is not None:
        found, fix = f"{format_name}, which says it itself", "drop --tower"
        raise UserError("the encoder is asked for peft alone", where="--tower", found=found, fix=fix)
    return ADAPTER_FORMATS[format_name].read(path, config)


def write(path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig, format_name: str) -> None:
    """Writes adapters and heads, the inverse of `read`.

    Raises:
      UserError: the format has no place for a part.
    """
    ADAPTER_FORMATS[format_name].write(path, checkpoint, config)


def of_model(params: Tree, batch_stats: Tree, rules: AdapterRules) -> Adaptation:
    """Returns what a model with shared adapters, or MTLoRA, adds to its encoder.

    Args:
      params: a model's nested dict of arrays; its plain weights are leaves like the others.
      batch_stats: the heads' running statistics.
      rules: the model's.
    """
    return Adaptation(
        adapter=peft.collect(params, rules),
        leaves={path: np.asarray(leaf) for path, leaf in flatten(params).items()},
        batch_stats=batch_stats,
        rules=rules,
        tail=int(rules.per_task is not None),
    )


def attach(params: Tree, adaptation: Adaptation) -> Tree:
    """Returns an encoder's params, stacked with the adaptation's tail, with all that it adds."""
    flat = flatten(peft.attach(params, adaptation.adapter))
    own = {path: leaf for path, leaf in adaptation.leaves.items() if "/blocks/" in path}
    flat |= {path: leaf for path, leaf in adaptation.leaves.items() if path not in own}
    if own:
        flat = stacking.stack(stacking.unstack(flat) | own, tail=adaptation.tail)
    return unflatten(flat)


def is_ours(path: pathlib.Path) -> bool:
    """Returns whether a file holds adapters in our format, rather than an encoder."""
    return path.suffix == ".safetensors" and load_arrays(path)[1].get("format") == _KIND


def without_heads(checkpoint: Adaptation) -> Adaptation:
    """Returns the vision encoder's part, without heads and balancing.

    Raises:
      UserError: an adapter of the text encoder alone.
    """
    adapter = checkpoint.adapter.vision()
    if checkpoint.adapter.layers and not adapter.layers and not checkpoint.leaves:
        raise UserError(
            "an adapter of the text encoder alone",
            where="--vision_only",
            expected="layers of the vision encoder",
            found=", ".join(list(checkpoint.adapter.layers)[:3]),
            fix="remove --vision_only",
        )
    leaves = {
        path: leaf for path, leaf in checkpoint.leaves.items() if not path.startswith((*_HEADS, *_TEXT))
    }
    return dataclasses.replace(checkpoint, adapter=adapter, leaves=leaves, batch_stats={})


def tasks_of(checkpoint: Adaptation) -> list[TaskSpec]:
    """Returns the tasks that have a head."""
    heads = {path.split("/")[1] for path in checkpoint.leaves if path.startswith("heads/")}
    return [task for name, task in TASKS.items() if name in heads]


def into_tower(
    checkpoint: Adaptation, tower: Mapping[str, np.ndarray], *, console: Console = QUIET
) -> dict[str, np.ndarray]:
    """Returns an encoder with adapters folded in and trained weights in their places.

    Every block has its own adapter here, of any rank and alpha. Folding is done in float32; the
    weights keep the types that they have in the encoder.

    Args:
      checkpoint: without heads.
      tower: official keys: those below `visual.`, and possibly those of the text encoder.
      console: is given the rounding, if the encoder is not float32.

    Raises:
      UserError: MTLoRA's per-task block and pooling, which do not fold into one encoder, or a layer
        that the encoder does not have.
    """
    if checkpoint.rules.per_task is not None:
        raise UserError(
            "MTLoRA's last block and pooling do not fold into one encoder",
            where="--base",
            expected="LoRA, DoRA, or trained weights",
            found="per-task adapters",
            fix="write it as softbio",
        )
    plain = official.OFFICIAL.forward(tower)
    adapter = dataclasses.replace(checkpoint.adapter, trained=checkpoint.leaves)
    exact = folding.folded(plain, adapter)
    return official.OFFICIAL.backward(folding.rounded(exact, plain, where="--base", console=console))


def _read_peft(path: pathlib.Path, config: VisionConfig) -> Adaptation:
    return _of_peft(peft.read(path, config), config)


def _of_peft(adapter: Adapter, config: VisionConfig) -> Adaptation:
    return Adaptation(
        adapter=dataclasses.replace(adapter, trained={}),
        leaves=adapter.trained,
        batch_stats={},
        rules=adapter.rules(config),
        tail=adapter.tail(config),
    )


def _write_peft(
    path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig, naming: Naming = "timm"
) -> None:
    if checkpoint.leaves:
        heads = any(name.startswith(_HEADS) for name in checkpoint.leaves)
        raise UserError(
            "PEFT has no place for heads and trained encoder weights",
            where=str(path),
            expected="only adapters",
            found=", ".join(list(checkpoint.leaves)[:3]),
            fix="add --vision_only, or name another --dst_format" if heads else "fold them: --base=ENCODER",
        )
    naming = "official" if checkpoint.adapter.text().layers else naming
    peft.write(path, checkpoint.adapter, naming=naming, base_model=config.name, config=config)


def _write_peft_transformers(path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig) -> None:
    _write_peft(path, checkpoint, config, "transformers")


def _write_ours(path: pathlib.Path, checkpoint: Adaptation, config: VisionConfig) -> None:
    text = [*checkpoint.adapter.text().layers, *(p for p in checkpoint.leaves if p.startswith(_TEXT))]
    if text:
        alone = not checkpoint.adapter.vision().layers
        raise UserError(
            "adapters of the text encoder have no place in this format",
            where=str(path),
            expected="adapters of the vision encoder, which a run has",
            found=", ".join(text[:3]),
            fix=f"fold them with --base, an encoder with text{'' if alone else ', or add --vision_only'}",
        )
    adapter = checkpoint.adapter
    peft.check_plain(adapter, where=str(path))
    arrays = {name: np.asarray(leaf) for name, leaf in checkpoint.leaves.items()}
    for path_of, layer in adapter.layers.items():
        arrays |= {f"{path_of}/lora_a": layer.a, f"{path_of}/lora_b": layer.b}
        if layer.magnitude is not None:
            arrays[f"{path_of}/dora_magnitude"] = layer.magnitude
    stats = flatten(checkpoint.batch_stats)
    arrays |= {_STATS + name: np.asarray(leaf) for name, leaf in stats.items()}
    layers = {name: dataclasses.asdict(layer.config) for name, layer in adapter.layers.items()}
    own = checkpoint.rules.per_task
    notes = {"format": _KIND, "variant": config.name, "layers": json.dumps(layers)}
    if own is not None:
        notes["per_task"] = json.dumps(dataclasses.asdict(own))
    save_arrays(path, arrays, metadata=notes)


def _read_ours(path: pathlib.Path, config: VisionConfig) -> Adaptation:
    (arrays, notes), where = load_arrays(path), str(path)
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


ADAPTER_FORMATS.add(_PEFT, AdapterFormat(read=_read_peft, write=_write_peft))
# PEFT's files on transformers' modules; read, both are one.
ADAPTER_FORMATS.add("peft_transformers", AdapterFormat(read=_read_peft, write=_write_peft_transformers))
ADAPTER_FORMATS.add("softbio", AdapterFormat(read=_read_ours, write=_write_ours))
