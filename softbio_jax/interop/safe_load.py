"""Checkpoint files as data, never code: safetensors, or torch's restricted unpickler."""

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.interop.reading import locate, shards, torchscript
from softbio_jax.interop.reading.locate import LEVELS, one_level, plain_names
from softbio_jax.safety import damage, untrusted

# Before 2.10 torch's restricted unpickler had known bypasses.
_MIN_TORCH = (2, 10)
_FIRST = ("state_dict", "weights")  # read even where other levels are beside them


def load_arrays(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads every array of a checkpoint, without casting.

    Args:
      path: a `.safetensors` file, a `.pt`, `.pth`, `.bin` or `.ckpt` file of torch tensors or of a
        TorchScript model, a `.npz` file of numpy arrays, the `.index.json` of a checkpoint in several
        files, or the folder of one. `FILE:ema` reads one of several levels.

    Returns:
      (key -> array, metadata of safetensors). A level such as `state_dict`, `model` or `ema` is
      unwrapped, and `module.` and `_orig_mod.` are removed from the names.

    Raises:
      UserError: a missing, truncated or unknown file, a pickle that contains more than data, a type
        that numpy does not have, or two names of one array.
    """
    path, level = locate.split_level(pathlib.Path(path))
    if path.is_dir():
        path = locate.in_folder(path)
    if not path.is_file():
        raise UserError(
            "no such checkpoint file",
            where=str(path),
            expected="a .safetensors or .pt file, or the folder of a checkpoint",
            found="nothing",
            fix="correct the path",
        )
    metadata: dict[str, str] = {}
    if path.suffix == ".json":
        arrays = shards.load(path, _load_shard)
    else:
        if shards.PART.search(path.name):
            raise shards.lone_part(path)
        if path.suffix == ".safetensors":
            arrays, metadata = _load_safetensors(path)
        elif path.suffix == ".npz":
            arrays = _load_numpy(path)
        elif path.suffix in locate.TORCH:
            arrays, level = _load_torch(path, level)
        else:
            raise UserError(
                "unknown checkpoint file type",
                where=str(path),
                expected=f"a name ending in .safetensors, {', '.join(locate.TORCH)} or .npz",
                found=repr(path.suffix),
                fix="rename or convert the file",
            )
    return plain_names(arrays, where=str(path), level=level), metadata


def _load_shard(path: pathlib.Path) -> dict[str, np.ndarray]:
    return (_load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path, ""))[0]


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


def _load_numpy(path: pathlib.Path) -> dict[str, np.ndarray]:
    untrusted.check_archive(path, stored=False, what="numpy arrays", fix="save it again with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # damage, which zipfile and numpy report in many ways
        if damage.refusal(error):
            raise
        raise _unreadable("numpy archive", path, error) from error
    # numpy writes bfloat16 as the bytes that it takes.
    return {
        key: array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array
        for key, array in arrays.items()
    }


def _too_small(path: pathlib.Path, key: str, kind: str) -> UserError:
    return UserError(
        "weights of a type that is read together with scales",
        where=f"{path} key {key}",
        expected="float32, float16 or bfloat16",
        found=kind,
        fix="save the original weights, or multiply by the scales and save as bfloat16",
    )


def _load_torch(path: pathlib.Path, level: str) -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays, and what is left of the level: its part within their names."""
    if torchscript.is_archive(path):
        return torchscript.load(path), level
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
        if "weights only load failed" in str(error).lower() and not _other_kind("torch file", path):
            raise UserError(
                "refused: the pickle contains more than tensors and was not run",
                where=str(path),
                expected="tensors in plain containers",
                found=_blamed(error),
                fix="ask for a safetensors file",
            ) from error
        raise _unreadable("torch file", path, error) from error
    state, left = _state_dict(loaded, path, level)
    flat = _flat(state)
    chosen = {key: value for key, value in flat.items() if f".{left}." in f".{key}"} if left else {}
    return {key: _to_numpy(value, key, path, torch) for key, value in (chosen or flat).items()}, left


def _state_dict(loaded: object, path: pathlib.Path, level: str) -> tuple[Mapping, str]:
    """Returns the state dict below known levels and the chosen one, and what is left of the latter."""
    while isinstance(loaded, Mapping):
        inside = {name: value for name, value in loaded.items() if isinstance(value, Mapping)}
        top, _, rest = level.partition(".")
        if top in inside:
            loaded, level = inside[top], rest
            continue
        beside = sum(hasattr(value, "dtype") for value in loaded.values())
        known = [name for name in LEVELS if name in inside]
        levels = [name for name in known if name in _FIRST or len(_flat(inside[name])) > beside]
        if not levels:
            break
        first = [name for name in _FIRST if name in inside][:1]
        if level and len(first or levels) > 1:
            one_level(levels, where=str(path), level=level)
        loaded = loaded[one_level(first or levels, where=str(path))]
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise UserError(
            "no state dict in the file",
            where=str(path),
            expected=f"names -> tensors, alone or under {', '.join(LEVELS[:-1])} or {LEVELS[-1]}",
            found=type(loaded).__name__,
            fix="save model.state_dict()",
        )
    return loaded, level


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


def _other_kind(kind: str, path: pathlib.Path) -> tuple[str, str] | None:
    """Returns what a file is by its first bytes, and the fix, if it is not what its name says."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS", "fetch the file itself: git lfs pull"
    if start.lstrip().startswith(b"<"):
        return "a web page", "download the file itself, not the page about it"
    if start.startswith(b"PK") and kind == "safetensors file":
        return "an archive, as torch and numpy write them", "name it .pt or .npz"
    if start[8:9] == b"{" and kind != "safetensors file":
        return "a safetensors file", "name it .safetensors"
    return None


def _unreadable(kind: str, path: pathlib.Path, error: Exception) -> UserError:
    if path.is_file() and (other := _other_kind(kind, path)):
        return UserError(f"not a {kind}", where=str(path), expected=f"a {kind}", found=other[0], fix=other[1])
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
        raise UserError(
            "torch is needed",
            where=str(path),
            expected="a .safetensors file, or torch installed",
            fix="pip install 'softbio-jax[convert]'",
        ) from error
    return torch


def _to_torch(array: np.ndarray, torch: Any) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
