"""Archives of TorchScript are read as values: as torch writes them, and nothing else."""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.reading import torchscript
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.models.config import VISION

CLIP = VISION["tiny-clip"]
KINDS = {"f4": b"FloatStorage", "f2": b"HalfStorage", "i8": b"LongStorage"}


def text(value):
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def whole(number):
    return pickle.BININT + struct.pack("<i", number)


def named(module, name):
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def tensor(array, key, *, kind=None, function="_rebuild_tensor_v2", shape=None, strides=None):
    shape = array.shape if shape is None else shape
    strides = [step // array.itemsize for step in array.strides] if strides is None else strides
    storage = text("storage") + pickle.GLOBAL + b"torch\n" + (kind or KINDS[array.dtype.str[1:]]) + b"\n"
    storage = pickle.MARK + storage + text(key) + text("cuda:0") + whole(array.size) + pickle.TUPLE
    sizes = b"".join(
        pickle.MARK + b"".join(map(whole, numbers)) + pickle.TUPLE for numbers in (shape, strides)
    )
    hooks = named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = storage + pickle.BINPERSID + whole(0) + sizes + pickle.NEWFALSE + hooks
    return named("torch._utils", function) + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE


def module(items):
    """A module of {name: the code of a value}."""
    state = (
        pickle.EMPTY_DICT + pickle.MARK + b"".join(text(k) + v for k, v in items.items()) + pickle.SETITEMS
    )
    return named("__torch__.model", "Module") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + state + pickle.BUILD


def nested(state):
    """The modules of dotted names, and their storages."""
    tree, storages = {}, {}
    for i, (name, array) in enumerate(state.items()):
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = tensor(array, str(i))
        storages[str(i)] = array.tobytes()

    def code(node):
        if isinstance(node, bytes):
            return node
        return module({"training": pickle.NEWTRUE} | {name: code(inner) for name, inner in node.items()})

    return code(tree), storages


def archive(path, code, storages=(), *, compress=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("clip/data.pkl", pickle.PROTO + b"\2" + code + pickle.STOP)
        for key, data in dict(storages).items():
            file.writestr(f"clip/data/{key}", data)
        file.writestr("clip/constants.pkl", b"\x80\x02).")
        # As torch does, which compresses the code alone.
        file.writestr("clip/code/__torch__/model.py", "class Module(Module):\n  pass\n", zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture
def state():
    found = named_state(formats.official_shapes("tiny-clip", text=True))
    return {key: array.astype(np.float16) for key, array in found.items()}


def test_openais_archive_is_read_with_its_counters_left_out(state, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # not needed
    counters = {name: np.array(32) for name in ("input_resolution", "context_length", "vocab_size")}
    path = archive(tmp_path / "ViT.pt", *nested(state | counters))
    read = formats.read(path, config=CLIP)
    assert {array.dtype for array in read.values()} == {np.dtype(np.float16)}
    assert read.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(read[key], array)


def test_views_of_a_storage_are_read_by_their_strides(tmp_path):
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    code = module({"a": tensor(base.T, "0"), "b": tensor(base, "0")})
    read, _ = load_arrays(archive(tmp_path / "a.pt", code, {"0": base.tobytes()}))
    np.testing.assert_array_equal(read["a"], base.T)
    np.testing.assert_array_equal(read["b"], base)
    assert read["a"].flags.c_contiguous


ONE = np.ones(2, np.float32)
EVIL = named("os", "system") + pickle.MARK + text("false") + pickle.TUPLE + pickle.REDUCE


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (EVIL, r"os\.system"),
        (module({"a": EVIL}), r"os\.system"),
        (named("os", "system") + pickle.EMPTY_TUPLE + pickle.NEWOBJ, r"os\.system"),
        (named("builtins", "eval") + text("1") + pickle.TUPLE1 + pickle.REDUCE, r"builtins\.eval"),
        (module({"a": tensor(ONE, "0", function="_rebuild_sparse_tensor")}), "_rebuild_sparse_tensor"),
        (module({"a": tensor(ONE, "0", kind=b"QInt8Storage")}), "QInt8Storage"),
        (module({"a": tensor(ONE, "../0")}), "a storage named"),
        (module({"a": tensor(ONE, "0", shape=(-1,))}), "sizes"),
        (module({"a": pickle.INT + b"1\n"}), "INT"),
        (text("builtins") + text("eval") + pickle.STACK_GLOBAL, "STACK_GLOBAL"),
        (pickle.EMPTY_LIST + pickle.MARK + pickle.NONE + text("a") + pickle.SETITEMS, "dictionary"),
        (named("torch", "Tensor") + pickle.EMPTY_DICT + pickle.BUILD, "a state that no module has"),
    ],
)
def test_anything_else_than_modules_and_tensors_is_refused_unrun(tmp_path, code, found):
    with pytest.raises(UserError, match=rf"refused: .*no code of it was run.*{found}"):
        load_arrays(archive(tmp_path / "a.pt", code, {"0": ONE.tobytes()}))


@pytest.mark.parametrize(
    ("code", "storages"),
    [
        (module({"a": tensor(ONE, "0", shape=(3,), strides=(1,))}), {"0": ONE.tobytes()}),
        (module({"a": tensor(ONE, "0", strides=(9,))}), {"0": ONE.tobytes()}),
        (module({"a": tensor(ONE, "0", shape=(1000, 1000), strides=(0, 0))}), {"0": ONE.tobytes()}),
        (module({"a": tensor(ONE, "1")}), {"0": ONE.tobytes()}),
        (module({"a": pickle.BINGET + b"\7"}), {}),
        (pickle.TUPLE1, {}),
        (b"\xff", {}),
    ],
)
def test_damage_is_one_line(tmp_path, code, storages):
    with pytest.raises(UserError, match=r"unreadable TorchScript archive: .*a\.pt"):
        load_arrays(archive(tmp_path / "a.pt", code, storages))


def test_modules_that_hold_themselves_and_many_views_of_one_storage_end(tmp_path):
    shell = named("__torch__.model", "Module") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + pickle.BINPUT + b"\0"
    itself = shell + pickle.EMPTY_DICT + text("a") + pickle.BINGET + b"\0" + pickle.SETITEM + pickle.BUILD
    with pytest.raises(UserError, match="nested too deeply"):
        load_arrays(archive(tmp_path / "a.pt", itself))
    big = np.ones(100_000, np.float32)
    views = module({f"a{i}": tensor(big, "0") for i in range(9)})
    with pytest.raises(UserError, match="in a smaller file"):
        load_arrays(archive(tmp_path / "b.pt", views, {"0": big.tobytes()}))


def test_a_compressed_archive_and_a_cut_one_are_refused(state, tmp_path):
    code, storages = nested(state)
    with pytest.raises(UserError, match=r"data\.pkl is compressed"):
        load_arrays(archive(tmp_path / "a.pt", code, storages, compress=zipfile.ZIP_DEFLATED))
    path = archive(tmp_path / "b.pt", code, storages)
    path.write_bytes(path.read_bytes()[:-500])
    assert not torchscript.is_archive(path)
