"""Checkpoint files as data, never code: safetensors, or torch's restricted unpickler."""

import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.models.config import VISION

# Before 2.10 torch's restricted unpickler had known bypasses.
_MIN_TORCH = (2, 10)
_CONTAINERS = ("state_dict", "weights")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_arrays(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads every array of a checkpoint file, without casting.

    Args:
      path: a `.safetensors` file, or a `.pt`, `.pth` or `.bin` file of torch tensors.

    Returns:
      (key -> array, metadata of safetensors). Of torch files, a `state_dict` or `weights` level is
      unwrapped and a leading `module.` removed.

    Raises:
      UserError: a missing, truncated or unknown file, or a pickle that contains more than data.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(
            "no such checkpoint file",
            where=str(path),
            expected="a .safetensors or .pt file",
            found="a folder" if path.is_dir() else "nothing",
            fix="correct the path",
        )
    match path.suffix:
        case ".safetensors":
            return _load_safetensors(path)
        case ".pt" | ".pth" | ".bin":
            return _load_torch(path), {}
    raise UserError(
        "unknown checkpoint file type",
        where=str(path),
        expected="a name ending in .safetensors, .pt, .pth or .bin",
        found=repr(path.suffix),
        fix="rename or convert the file",
    )


def _load_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(
            "unreadable safetensors file",
            where=str(path),
            expected="a complete file",
            found=_first_sentence(error),
            fix="fetch or write the file again",
        ) from error


def _load_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _require_torch(path)
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _MIN_TORCH:
        raise UserError(
            "torch is too old to read untrusted files",
            where=str(path),
            expected=f"torch >= {_MIN_TORCH[0]}.{_MIN_TORCH[1]}",
            found=torch.__version__,
            fix="pip install -U torch",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            loaded = torch.load(path, map_location="cpu", weights_only=True)
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
        raise UserError(
            "unreadable torch file",
            where=str(path),
            expected="a complete file of tensors",
            found=_first_sentence(error),
            fix="fetch or write the file again",
        ) from error
    return {
        key.removeprefix("module."): _to_numpy(value, key, path, torch)
        for key, value in _flat(_state_dict(loaded, path)).items()
    }


def _state_dict(loaded: object, path: pathlib.Path) -> Mapping:
    for name in _CONTAINERS:
        if isinstance(loaded, Mapping) and name in loaded:
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise UserError(
            "no state dict in the file",
            where=str(path),
            expected="names -> tensors, alone or under state_dict or weights",
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
    value = value.detach()
    if value.dtype == torch.bfloat16:  # not a type of numpy itself
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _first_sentence(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


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
    if path.exists() or path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
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
