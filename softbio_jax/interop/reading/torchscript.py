"""The tensors of a TorchScript archive, such as OpenAI's files of CLIP, without torch and without its code.

Such an archive is a zip with the code of a model, and a pickle that names its modules and tensors. The
pickle is read as the tree of values that it spells out: its instructions are those that torch writes, a
class is only a name, and the only calls are those that make a tensor or what holds tensors.

Source: torch `csrc/jit/serialization/pickler.cpp` and `caffe2/serialize/inline_container.cc` (the format).
"""

import collections
import dataclasses
import math
import pathlib
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.safety import damage, untrusted

_MARK = object()
_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAX_VALUES, _MAX_DEPTH, _VIEWS = 1_000_000, 100, 4


class _Refused(ValueError):
    """An instruction or a call that no archive of tensors has."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A class or a function, which is never looked up."""

    module: str
    name: str


@dataclasses.dataclass
class _Object:
    """An instance of a class of the archive's own code."""

    state: Any = None


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    kind: str


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_archive(path: pathlib.Path) -> bool:
    """Returns whether a file is a zip with code beside its pickle, as TorchScript has it."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _root(archive) is not None
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False  # damaged: the reader of torch's files says how


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the parameters and buffers of a TorchScript archive by their dotted names.

    Raises:
      UserError: a damaged archive, or a pickle that contains more than modules and tensors.
    """
    fix = "save the state dict of the model, or ask for a safetensors file"
    untrusted.check_archive(path, stored=False, what="a torch file", fix=fix)  # its code is compressed
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            tensors = dict(_named(_read(_member(archive, f"{root}data.pkl"))))
            size = sum(
                math.prod(tensor.shape) * np.dtype(_DTYPES[tensor.storage.kind]).itemsize
                for tensor in tensors.values()
            )
            if size > _VIEWS * path.stat().st_size:
                raise ValueError(f"tensors of {size:,} bytes in a smaller file")
            return {name: _array(tensor, archive, str(root)) for name, tensor in tensors.items()}
    except _Refused as error:
        raise UserError(
            "refused: the archive contains more than modules and tensors, and no code of it was run",
            where=str(path),
            expected="modules of tensors, numbers and texts",
            found=str(error),
            fix=fix,
        ) from error
    except Exception as error:  # damage, which pickletools and zipfile report in many ways
        if damage.refusal(error):
            raise
        raise UserError(
            "unreadable TorchScript archive",
            where=str(path),
            expected="a complete file",
            found=f"{type(error).__name__}: {error}".splitlines()[0][:200],
            fix="fetch the file again",
        ) from error


def _root(archive: zipfile.ZipFile) -> str | None:
    """Returns the folder of the pickle and its slash, if there is code beside it."""
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        return None
    root = pickles[0].removesuffix("data.pkl")
    return root if any(name.startswith(f"{root}code/") for name in names) else None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns a member that is stored as it is, so that it is no longer than the file."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def _read(data: bytes) -> Any:
    """Returns the value that a pickle spells out."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_VALUES:
            raise _Refused(f"more than {_MAX_VALUES:,} instructions")
        name = opcode.name
        if name == "STOP":
            (value,) = stack
            return value
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in _STEPS:
            _STEPS[name](stack)
        elif name != "PROTO":
            raise _Refused(f"the instruction {name}")
    raise _Refused("a pickle without an end")


def _above_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _tuple(stack: list[Any]) -> None:
    stack.append(tuple(_above_mark(stack)))


def _append(stack: list[Any]) -> None:
    item = stack.pop()
    _list(stack[-1]).append(item)


def _appends(stack: list[Any]) -> None:
    items = _above_mark(stack)
    _list(stack[-1]).extend(items)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _Refused(f"items of a {type(value).__name__.strip('_')}")
    return value


def _set_items(stack: list[Any]) -> None:
    items = _above_mark(stack)
    _fill(stack[-1], items)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _fill(stack[-1], [key, value])


def _fill(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or not all(isinstance(key, str | int) for key in items[::2]):
        raise _Refused("items that are not those of a dictionary")
    target.update(zip(items[::2], items[1::2], strict=True))


def _new(stack: list[Any]) -> None:
    arguments, kind = stack.pop(), stack.pop()
    if not (isinstance(kind, _Name) and kind.module.startswith("__torch__") and arguments == ()):
        raise _Refused(_shown(kind))
    stack.append(_Object())


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    if not isinstance(stack[-1], _Object):
        raise _Refused("a state that no module has")
    stack[-1].state = state


def _persistent(stack: list[Any]) -> None:
    found = stack.pop()
    if not (isinstance(found, tuple) and len(found) == 5 and found[0] == "storage"):
        raise _Refused("a reference to something else than a storage")
    _, kind, key, _, _ = found
    if not (isinstance(kind, _Name) and kind.module == "torch" and kind.name in _DTYPES):
        raise _Refused(_shown(kind))
    if not (isinstance(key, str) and key.isalnum()):
        raise _Refused(f"a storage named {key!r}")
    stack.append(_Storage(key, kind.name))


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    called = _shown(function)
    if called == "collections.OrderedDict" and arguments == ():
        stack.append({})
    elif called in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, offset, shape, strides, *_ = arguments
        whole = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in whole):
            raise _Refused("a tensor of other than a storage and its sizes")
        stack.append(_Tensor(storage, offset, tuple(shape), tuple(strides)))
    elif called.startswith("torch.jit._pickle.build_") and len(arguments) == 1:
        stack.append(arguments[0])  # a list with the type of its items in the name
    else:
        raise _Refused(called)


def _shown(found: Any) -> str:
    return f"{found.module}.{found.name}" if isinstance(found, _Name) else f"a {type(found).__name__}"


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
}
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _tuple,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "NEWOBJ": _new,
    "BUILD": _build,
    "BINPERSID": _persistent,
    "REDUCE": _reduce,
}


def _named(value: Any) -> Iterator[tuple[str, _Tensor]]:
    """Yields the tensors of nested modules by their dotted names."""
    left = collections.deque([("", value, 0)])
    while left:
        prefix, found, depth = left.popleft()
        if depth > _MAX_DEPTH or len(left) > _MAX_VALUES:
            raise _Refused("modules nested too deeply")
        if isinstance(found, _Object):
            found = found.state
        if isinstance(found, _Tensor):
            yield prefix.removesuffix("."), found
        elif isinstance(found, dict):
            left.extend((f"{prefix}{key}.", inner, depth + 1) for key, inner in found.items())


def _array(tensor: _Tensor, archive: zipfile.ZipFile, root: str) -> np.ndarray:
    data = _member(archive, f"{root}data/{tensor.storage.key}")
    values = np.frombuffer(data, _DTYPES[tensor.storage.kind])
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    size: int = math.prod(tensor.shape)
    if size > len(values) or (size and last >= len(values)):
        raise ValueError(f"a tensor {tensor.shape} in a storage of {len(values)}")
    strides = tuple(stride * values.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides)
    return np.ascontiguousarray(view).reshape(tensor.shape)
