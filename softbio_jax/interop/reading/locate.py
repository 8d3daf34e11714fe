"""From a path, a folder or a hub id to the file of a checkpoint, and to the plain names of its arrays."""

import contextlib
import importlib
import pathlib
import re
import types
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop.reading import shards
from softbio_jax.models.config import VISION

TORCH = (".pt", ".pth", ".bin", ".ckpt")
_FILES = (*TORCH, ".safetensors", ".json")  # endings of paths, which are no hub ids
# Names under which other libraries save a model, the safest first.
_STEMS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("open_clip_model.safetensors",),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("open_clip_pytorch_model.bin",),
)
_NAMES = tuple(name for stem in _STEMS for name in stem)
# What says the variant and the normalisation, beside weights on the hub; the last is for want of the first.
_BESIDE = ("config.json", "preprocessor_config.json", "open_clip_config.json")
_ADAPTER = "adapter_config.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Parts of a name that torch's wrappers of a model add: compiled, distributed, sharded, checkpointed.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_COUNTER = "n_averaged"  # beside the module of torch's AveragedModel
# The levels under which training programs save a model.
LEVELS = (
    *("state_dict", "weights", "model", "model_state_dict", "model_state", "module", "net", "network"),
    *("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "model_ema_state_dict"),
    *("student", "teacher", "target", "backbone", "params", "params_ema", "shadow", "averaged_model"),
)


def split_level(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Returns `FILE:level` as (FILE, level), and any other path as (path, "")."""
    name, _, level = path.name.rpartition(":")
    file = path.with_name(name) if name else path
    return (file, level) if file != path and file.exists() and not path.exists() else (path, "")


def in_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the checkpoint of a folder: the usual name, or the only index or file of weights.

    Raises:
      UserError: an adapter's or a run's folder, no checkpoint, or several.
    """
    if (folder / _ADAPTER).is_file():
        raise adapter_given(str(folder))
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    if (folder / "checkpoints").is_dir() and (folder / "config.json").is_file():
        export = f"scripts/export.py --model={folder} --format=safetensors --out=encoder.safetensors"
        raise UserError(
            "a run, not an encoder",
            where=str(folder),
            expected="the weights of a whole encoder",
            found="checkpoints of what was trained",
            fix=f"{export} writes its encoder",
        )
    files = sorted(path for path in folder.iterdir() if path.is_file())
    parts = {part for path in files if (part := shards.part(path)) is not None}
    whole = [path for path in files if path.suffix in (".safetensors", *TORCH) and shards.part(path) is None]
    found = [path for path in files if path.name.endswith(shards.INDEX)] + whole
    if len(found) == 1:
        return found[0]
    names = [path.name for path in found] or [f"shards of {name} without their index" for name in parts]
    raise UserError(
        "several checkpoints in the folder" if found else "no checkpoint in the folder",
        where=str(folder),
        expected="one, such as model.safetensors or model.safetensors.index.json",
        found=", ".join(names[:4]) or "none",
        fix="name the file" if found else "fetch the index too" if parts else "correct the path",
    )


def adapter_given(source: str, *, where: str = "", found: str = _ADAPTER, fix: str = "") -> UserError:
    """Returns the error of an adapter where an encoder is needed.

    Args:
      source: the adapter, a path or a hub id.
      where: the flag or setting that names it, if known.
      found: what shows that it is one.
      fix: the correction; by default, to fold it into its encoder.
    """
    fold = f"add --src_format=peft and --base=ENCODER to scripts/convert.py --src={source}, which merges them"
    return UserError(
        "an adapter, not an encoder",
        where=f"{where}: {source}" if where else source,
        expected="the weights of a whole encoder",
        found=found,
        fix=fix or fold,
    )


def resolve(source: str) -> pathlib.Path:
    """Returns the file of a path, folder or hub id, downloaded if necessary.

    Args:
      source: a path or folder, or a hub id such as `facebook/PE-Core-L14-336` (its `.pt`) or
        `timm/vit_pe_core_large_patch14_336.fb` (its `model.safetensors`). All shards of a
        checkpoint in several files are downloaded. A level may follow, as in `FILE:ema`.

    Raises:
      UserError: neither a file nor an available hub id, or a folder without a checkpoint.
    """
    path, level = split_level(pathlib.Path(source))
    if path.is_dir():
        path = in_folder(path)
    elif not path.exists() and path.suffix not in _FILES:
        path = _from_hub(source)
    return path.with_name(f"{path.name}:{level}") if level else path


def is_hub_id(source: str) -> bool:
    """Returns whether a source can be a hub id: OWNER/NAME, and neither there nor named like a file."""
    path = pathlib.Path(source)
    return bool(HUB_ID.fullmatch(source)) and not path.exists() and path.suffix not in _FILES


def check_source(source: str, *, of: str = "") -> None:
    """Checks that a source can be a checkpoint; reads no weights and downloads nothing.

    Args:
      source: as of `resolve`.
      of: the setting that names it, for the message.

    Raises:
      UserError: none of them, a folder without a checkpoint, or a hub id without huggingface_hub.
    """
    path = split_level(pathlib.Path(source))[0]
    if path.is_dir():
        in_folder(path)
    elif not path.exists() and is_hub_id(source):
        require_hub(source, instead="a file")
    elif not path.exists():
        raise UserError(
            "no such checkpoint",
            where=f"{of}: {source}" if of else source,
            expected="a file, a folder or a hub id",
            found="neither",
            fix="correct the path",
        )


def require_hub(source: str, *, instead: str) -> types.ModuleType:
    """Returns huggingface_hub; raises UserError without it, which proposes `instead` of a hub id."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            "huggingface_hub is needed",
            where=source,
            expected=f"{instead}, or huggingface_hub installed",
            fix="pip install 'softbio-jax[hub]'",
        ) from error


def _from_hub(source: str) -> pathlib.Path:
    check_source(source)
    huggingface_hub = require_hub(source, instead="a file")

    cached: dict[str, bool] = {}  # once the hub could not be reached, after all its retries

    def download(name: str) -> pathlib.Path:
        return pathlib.Path(huggingface_hub.hf_hub_download(source, name, **cached))

    name = source.split("/")[1]
    wanted = (f"{name}.pt",) if name in VISION and VISION[name].family == "perception" else _NAMES
    first: Exception | None = None
    is_adapter = False
    for filename in wanted:
        # Its errors have no common base class; each means that the file is not available.
        try:
            path = _complete(download(filename), download)
            if filename in _NAMES:
                _download_beside(download)
            return path
        except UserError:
            raise
        except Exception as error:
            first = first or error
            if type(error).__name__ == "LocalEntryNotFoundError":
                cached["local_files_only"] = True
            if "EntryNotFound" not in type(error).__name__:
                break  # the repository or the network: no other file can be had either
    else:
        with contextlib.suppress(Exception):  # as above
            download(_ADAPTER)
            is_adapter = True
    if is_adapter:
        raise adapter_given(source) from first
    raise UserError(
        "cannot fetch from the hub",
        where=f"{source}:{wanted[0]}",
        expected="a public repository with a checkpoint, or a cached copy",
        found=type(first).__name__,
        fix="check the id and the network, or give a file",
    ) from first


def _download_beside(download: Callable[[str], pathlib.Path]) -> None:
    found = set()
    for name in _BESIDE:
        if name != _BESIDE[-1] or _BESIDE[0] not in found:
            with contextlib.suppress(Exception):  # many repositories have only one of them
                download(name)
                found.add(name)


def _complete(path: pathlib.Path, download: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """Returns a downloaded file, with the shards of an index beside it."""
    if path.name.endswith(shards.INDEX):
        for name in shards.read_index(path):
            download(name)
    return path


def plain_names(arrays: Mapping[str, np.ndarray], *, where: str, level: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of the file `where` without what saving a wrapped model adds to their names.

    Parts such as `module` and `_orig_mod` are removed, and a level among `LEVELS` that all names are below.

    Args:
      level: the level to read, such as `ema` or `teacher.backbone`; what is not below it is left out.

    Raises:
      UserError: two names become one, no such level, or several and none given.
    """
    originals: dict[str, str] = {}
    for key in arrays:
        *parts, last = key.split(".")
        name = ".".join([*(part for part in parts if part not in WRAPPERS), last])
        if name in originals:
            raise UserError(
                "two names of one array",
                where=where,
                expected="each array once",
                found=f"{originals[name]} and {key}",
                fix="save the model with its wrapper or without, not both",
            )
        originals[name] = key
    if arrays.get(originals.get(_COUNTER, ""), np.zeros(1)).ndim == 0:
        del originals[_COUNTER]
    level = ".".join(part for part in level.split(".") if part not in WRAPPERS)
    while tops := {name.partition(".")[0] if "." in name else "" for name in originals}:
        if level and any(name.startswith(f"{level}.") for name in originals):
            top, level = level, ""
        elif level or tops <= set(LEVELS):
            known = sorted(name for name in tops if name)
            one = len(known) == 1 and known[0] in LEVELS  # the chosen level is below it
            top = known[0] if one else one_level(known, where=where, level=level)
        else:
            break
        originals = {
            name.removeprefix(f"{top}."): key for name, key in originals.items() if name.startswith(f"{top}.")
        }
    return {name: arrays[key] for name, key in originals.items()}


def one_level(levels: Sequence[str], *, where: str, level: str = "") -> str:
    """Returns the chosen level of the file `where`, or its only one.

    Raises:
      UserError: it has several and none is chosen, or it does not have the chosen one.
    """
    if level in levels or (len(levels) == 1 and not level):
        return level or levels[0]
    raise UserError(
        "several sets of weights in the file" if not level else "no such level in the file",
        where=where,
        expected=level or "one, or the name of one",
        found=", ".join(levels[:6]) or "none",
        fix=f"give {' or '.join(f'{where}:{name}' for name in levels[:4]) or where}",
    )
