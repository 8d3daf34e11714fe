"""Checkpoint files as data, never code: safetensors, or torch's restricted unpickler."""

import json
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from softbio_jax import files, untrusted
from softbio_jax.errors import UserError
from softbio_jax.interop.keymap import LEVELS, one_level, plain_names
from softbio_jax.models.config import VISION

# Before 2.10 torch's restricted unpickler had known bypasses.
_MIN_TORCH = (2, 10)
_FIRST = ("state_dict", "weights")  # read even where other levels are beside them
_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_PART = re.compile(r"-\d{5}-of-\d{5}\.")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_arrays(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads every array of a checkpoint file, without casting.

    Args:
      path: a `.safetensors` file, a `.pt`, `.pth`, `.bin` or `.ckpt` file of torch tensors, or the
        `.index.json` of a checkpoint in several files. `FILE:ema` reads one of several levels.

    Returns:
      (key -> array, metadata of safetensors). A level such as `state_dict`, `model` or `ema` is
      unwrapped, and `module.` and `_orig_mod.` are removed from the names.

    Raises:
      UserError: a missing, truncated or unknown file, a pickle that contains more than data, a type
        that numpy does not have, or two names of one array.
    """
    path, level = _split_level(pathlib.Path(path))
    if not path.is_file():
        raise UserError(
            "no such checkpoint file",
            where=str(path),
            expected="a .safetensors or .pt file",
            found="a folder" if path.is_dir() else "nothing",
            fix="correct the path",
        )
    metadata: dict[str, str] = {}
    if path.suffix == ".json":
        arrays = _load_parts(path)
    elif (index := _index_of(path)) is not None:
        raise UserError("one file (shard) of a checkpoint in several", where=str(path), fix=f"give {index}")
    elif path.suffix == ".safetensors":
        arrays, metadata = _load_safetensors(path)
    elif path.suffix in _TORCH:
        arrays, level = _load_torch(path, level), ""
    else:
        raise UserError(
            "unknown checkpoint file type",
            where=str(path),
            expected=f"a name ending in .safetensors, {', '.join(_TORCH[:-1])} or {_TORCH[-1]}",
            found=repr(path.suffix),
            fix="rename or convert the file",
        )
    return plain_names(arrays, where=str(path), level=level), metadata


def _split_level(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Returns `FILE:level` as (FILE, level)."""
    name, _, level = path.name.rpartition(":")
    file = path.with_name(name) if name else path
    return (file, level) if file != path and file.is_file() and not path.exists() else (path, "")


def _index_of(path: pathlib.Path) -> pathlib.Path | None:
    match = _PART.search(path.name)
    index = path.with_name(f"{path.name[: match.start()]}{path.suffix}.index.json") if match else None
    return index if index is not None and index.is_file() else None


def _load_parts(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the files that an index names (a sharded checkpoint)."""
    try:
        places = dict(json.loads(path.read_text())["weight_map"])
        names = sorted(set(places.values()))
        beside = bool(names) and all(name == pathlib.PurePath(name).name for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        beside = False
    if not beside:
        expected, fix = "a weight_map of names to files beside it", "give the index, or the file of weights"
        raise UserError("no index of a checkpoint", where=str(path), expected=expected, fix=fix)
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        file = path.with_name(name)
        if not file.is_file():
            raise UserError("a file of the checkpoint is missing", where=str(file), fix="fetch it too")
        arrays |= _load_safetensors(file)[0] if file.suffix == ".safetensors" else _load_torch(file, "")
    if differing := sorted(places.keys() ^ arrays.keys()):
        found, fix = f"names of one alone: {', '.join(differing[:3])}", "fetch the files again"
        raise UserError("the files differ from their index", where=str(path), found=found, fix=fix)
    return arrays


def _load_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for key in file.keys():
                kind = file.get_slice(key).get_dtype()
                if kind.startswith(("F4_", "F6_", "F8_")):
                    raise _too_small(path, key, kind)
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise _unreadable("safetensors file", path, error) from error


def _too_small(path: pathlib.Path, key: str, kind: str) -> UserError:
    return UserError(
        "weights of a type that is read together with scales",
        where=f"{path} key {key}",
        expected="float32, float16 or bfloat16",
        found=kind,
        fix="save the original weights, or multiply by the scales and save as bfloat16",
    )


def _load_torch(path: pathlib.Path, level: str) -> dict[str, np.ndarray]:
    torch = _require_torch(path)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _MIN_TORCH:
        raise UserError(
            "torch is too old to read untrusted files",
            where=str(path),
            expected=f"torch >= {_MIN_TORCH[0]}.{_MIN_TORCH[1]}",
            found=torch.__version__,
            fix="pip install -U torch",
        )
    untrusted.check_archive(path, stored=True, what="a torch file", fix="save it again with torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            loaded = untrusted.tree(torch.load(path, map_location="cpu", weights_only=True), path)
    # A damaged file can raise almost any error inside the unpickler; no code of it has run.
    except Exception as error:
        if "weights only load failed" in str(error).lower():
            raise UserError(
                "refused: the pickle contains more than tensors and was not run",
                where=str(path),
                expected="tensors in plain containers",
                found=_blamed(error),
                fix="ask for a safetensors file",
            ) from error
        raise _unreadable("torch file", path, error) from error
    state = _state_dict(loaded, path, level)
    return {key: _to_numpy(value, key, path, torch) for key, value in _flat(state).items()}


def _state_dict(loaded: object, path: pathlib.Path, level: str) -> Mapping:
    while isinstance(loaded, Mapping):
        known = (*LEVELS, level)
        inside = {
            name: value for name, value in loaded.items() if name in known and isinstance(value, Mapping)
        }
        beside = sum(hasattr(value, "dtype") for value in loaded.values())
        levels = [name for name, value in inside.items() if name in _FIRST or len(_flat(value)) > beside]
        if not level:
            levels = [name for name in _FIRST if name in inside][:1] or levels
        if not levels and not level:
            break
        loaded, level = loaded[one_level(levels, where=str(path), level=level)], ""
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise UserError(
            "no state dict in the file",
            where=str(path),
            expected=f"names -> tensors, alone or under {', '.join(LEVELS[:-1])} or {LEVELS[-1]}",
            found=type(loaded).__name__,
            fix="save model.state_dict()",
        )
    return loaded


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Joins the keys of state dicts inside a state dict with dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, tuple | list) and len(value) == 1:  # from a trailing comma
            value = value[0]
        if isinstance(value, Mapping) and all(isinstance(inner, str) for inner in value):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _to_numpy(value: Any, key: str, path: pathlib.Path, torch: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
        raise UserError(
            "not a plain tensor",
            where=f"{path} key {key}",
            expected="a dense tensor",
            found=type(value).__name__,
            fix="save only model.state_dict()",
        )
    if value.is_meta:
        found, fix = "a tensor of the meta device", "load the model's weights before saving it"
        raise UserError("a tensor without values", where=f"{path} key {key}", found=found, fix=fix)
    kind = str(value.dtype).removeprefix("torch.")
    if kind.startswith(("float4", "float6", "float8")):
        raise _too_small(path, key, kind)
    value = value.detach()
    if value.dtype == torch.bfloat16:  # not a type of numpy itself
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _unreadable(kind: str, path: pathlib.Path, error: Exception) -> UserError:
    text = str(error).strip().splitlines()
    return UserError(
        f"unreadable {kind}",
        where=str(path),
        expected="a complete file",
        found=f"{type(error).__name__}: {text[0]}" if text else type(error).__name__,
        fix="fetch or write the file again",
    )


def _blamed(error: Exception) -> str:
    """Returns the global that the unpickler refused, without torch's advice to allow it."""
    text = str(error)
    for marker in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if marker in text:
            return text.split(marker, 1)[1].split()[0].rstrip(".,")
    return "something other than tensors"


def save_arrays(
    path: str | pathlib.Path, arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str]
) -> None:
    """Writes a checkpoint file, which appears only once complete.

    Args:
      path: ends in `.safetensors`, or in `.pt` for a torch state dict (without metadata).
      arrays: key -> array.
      metadata: of safetensors.

    Raises:
      UserError: another ending, a missing folder, or torch is needed and not installed.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".safetensors", ".pt") or not path.parent.is_dir():
        raise UserError(
            "cannot write a checkpoint there",
            where=str(path),
            expected="a name ending in .safetensors or .pt in an existing folder",
            fix="correct the path",
        )
    # ascontiguousarray makes a scalar (1,), hence the reshape.
    arrays = {key: np.ascontiguousarray(array).reshape(array.shape) for key, array in arrays.items()}
    with files.atomic_file(path) as temporary:
        if path.suffix == ".pt":
            torch = _require_torch(path)
            torch.save({key: _to_torch(array, torch) for key, array in arrays.items()}, temporary)
        else:
            safetensors.numpy.save_file(arrays, temporary, metadata=dict(metadata))


def save_nested(path: str | pathlib.Path, tree: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes named state dicts into one `.pt` file, which appears only once complete.

    Raises:
      UserError: torch is not installed.
    """
    path = pathlib.Path(path)
    torch = _require_torch(path)
    tensors = {
        name: {key: _to_torch(np.array(array), torch) for key, array in arrays.items()}
        for name, arrays in tree.items()
    }
    with files.atomic_file(path) as temporary:
        torch.save(tensors, temporary)


def _require_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise _missing("torch", where=str(path), instead="a .safetensors file", extra="convert") from error
    return torch


def _missing(package: str, *, where: str, instead: str, extra: str) -> UserError:
    return UserError(
        f"{package} is needed",
        where=where,
        expected=f"{instead}, or {package} installed",
        fix=f"pip install 'softbio-jax[{extra}]'",
    )


def _to_torch(array: np.ndarray, torch: Any) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def resolve(source: str) -> pathlib.Path:
    """Returns the file of a path or hub id, downloaded if necessary.

    Args:
      source: a path, or a hub id such as `facebook/PE-Core-L14-336` (its `.pt`) or
        `timm/vit_pe_core_large_patch14_336.fb` (its `model.safetensors`).

    Raises:
      UserError: neither a file nor an available hub id.
    """
    path = pathlib.Path(source)
    if _split_level(path)[1]:
        return path
    if path.exists() or path.suffix in (*_TORCH, ".safetensors", ".json"):
        return path
    if not _HUB_ID.fullmatch(source):
        raise UserError(
            "no such checkpoint",
            where=source,
            expected="a file or a hub id",
            found="neither",
            fix="correct the path",
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise _missing("huggingface_hub", where=source, instead="a file", extra="hub") from error
    name = source.split("/")[1]
    filename = f"{name}.pt" if name in VISION else "model.safetensors"
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(source, filename))
    # Its errors have no common base class; each means that the file is not available.
    except Exception as error:
        raise UserError(
            "cannot fetch from the hub",
            where=f"{source}:{filename}",
            expected="a public repository, or a cached copy",
            found=f"{type(error).__name__}",
            fix="check the id and the network, or give a file",
        ) from error
