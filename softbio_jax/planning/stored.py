"""A compiled train step in a folder: planned on one machine, run on the chips that it was compiled for.

The folder holds the serialised executable and a manifest. An executable is code: a folder is as trusted as
the program that reads it. Nothing is unpickled; what surrounds the executable is traced again.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.backend import get_backend
from jax.sharding import Mesh

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.planning import fit
from softbio_jax.planning.saved import described
from softbio_jax.runs import config as config_lib
from softbio_jax.runs import parallel
from softbio_jax.runs.build import Run
from softbio_jax.runs.session import CompiledStep
from softbio_jax.safety import damage

MANIFEST, EXECUTABLE = "manifest.json", "step.bin"
_FORMAT = 1
_MOST = 1 << 32  # bytes of an executable
_FIELDS = {"format", "versions", "devices", "program", "executable", "inputs", "config"}


def check_folder(folder: pathlib.Path) -> None:
    """Raises UserError if a folder holds something else than a stored step, which would be lost."""
    if (
        folder.exists()
        and not (folder / MANIFEST).exists()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise UserError(
            "not the folder of a compiled step",
            where=str(folder),
            expected="a new folder, or one that --save wrote",
            found="something else",
            fix="name another --save",
        )


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compiles what is inside without JAX's compilation cache: what `save` takes has to be compiled so.

    XLA's CPU programs lose functions when one that was loaded is serialised again; it then fails when run.
    """
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks at the option once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def save(step: CompiledStep, traced: jax.stages.Traced, folder: pathlib.Path) -> None:
    """Writes a compiled step into a folder, which appears only once complete.

    Args:
      step: compiled, under `uncached`.
      traced: what it was compiled from.
      folder: new, or with an older step, which is replaced.

    Raises:
      UserError: the folder holds something else, or this compiler's programs cannot be stored.
    """
    check_folder(folder)
    try:
        program = step.call.runtime_executable()
        if hasattr(program, "serialize"):
            executable = program.serialize()
        else:  # jax 0.7
            executable = program.client.serialize_executable(program)
    except (jax.errors.JaxRuntimeError, AttributeError, NotImplementedError) as error:
        raise UserError(
            "this compiler's programs cannot be stored",
            where="--save",
            expected="a compiler that serialises its programs",
            found=damage.reason(error),
            fix="leave --save out; train.compile_cache keeps what a run compiles",
        ) from error
    manifest = {
        "format": _FORMAT,
        "versions": _versions(),
        "devices": _devices(step.devices),
        "program": _digest(traced),
        "executable": hashlib.sha256(executable).hexdigest(),
        "inputs": sorted(step.call._executable._kept_var_idx),  # XLA drops those that nothing reads
        "config": described(step.config),
    }
    with files.atomic_folder(folder, overwrite=True) as temporary:
        (temporary / EXECUTABLE).write_bytes(executable)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


class Loaded(NamedTuple):
    """The step of a folder for a run, or why it is not used."""

    step: CompiledStep | None
    why: str = ""


def load(folder: pathlib.Path, run: Run, *, devices: Sequence[Any] | None = None) -> Loaded:
    """Returns the stored step if it is this run's on these devices, by these versions.

    The run's step is traced and lowered; its text has to be the one that was compiled.

    Args:
      folder: that `save` wrote.
      run: what is trained.
      devices: the devices to use; None: all.

    Raises:
      UserError: the folder has no stored step.
    """
    manifest = _read(folder)
    mesh = parallel.make_mesh(fsdp=run.config.mesh.fsdp, devices=devices)
    used = tuple(mesh.devices.flat)
    for name, stored, here in (
        ("versions", manifest["versions"], _versions()),
        ("devices", manifest["devices"], _devices(used)),
    ):
        if stored != here:
            return Loaded(None, _difference(name, stored, here))
    config = config_lib.resolve_types(run.config, used)
    traced = fit.traced_step(config, used, run.teacher)
    if _digest(traced) != manifest["program"]:
        why = _difference("configuration", manifest["config"], described(config))
        return Loaded(None, why or "this code makes another program of the configuration")
    executable = files.read_bytes(folder / EXECUTABLE, most=_MOST)
    if hashlib.sha256(executable).hexdigest() != manifest["executable"]:
        return Loaded(None, f"{EXECUTABLE} is damaged")
    try:
        call = _call(executable, manifest["inputs"], traced, mesh)
    except Exception as error:  # what a runtime raises depends on the runtime
        return Loaded(None, f"this machine cannot load it: {damage.reason(error)}")
    return Loaded(CompiledStep(config=config, devices=used, jaxpr=traced.jaxpr, call=call))


def _call(
    executable: bytes, inputs: Sequence[int], traced: jax.stages.Traced, mesh: Mesh
) -> Callable[..., Any]:
    """Returns the function of a serialised executable, which takes and gives arrays of a mesh."""
    program = get_backend().deserialize_executable(executable, executable_devices=mesh._internal_device_list)
    outputs, structure = jax.tree.flatten(traced.out_info)
    expected, arguments = jax.tree.flatten(traced.args_info[0])
    checked = False

    def call(*given: Any) -> Any:
        nonlocal checked
        leaves, found = jax.tree.flatten(given)
        if not checked:
            if found != arguments or any(  # type: ignore[operator]
                (a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(leaves, expected, strict=True)
            ):
                raise TypeError("the arguments are not those that the step was compiled for")
            checked = True
        raw = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
        results = program.execute_sharded([raw[number] for number in inputs])
        arrays = results.disassemble_into_single_device_arrays()
        made = [
            jax.make_array_from_single_device_arrays(output.shape, output.sharding, parts)
            for output, parts in zip(outputs, arrays, strict=True)
        ]
        return jax.tree.unflatten(structure, made)

    return call


def _is_key(leaf: jax.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("jax", "jaxlib", "libtpu"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def _devices(devices: Sequence[Any]) -> dict[str, Any]:
    """Returns what an executable depends on: the kind of the devices and their order in the mesh."""
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "order": [device.id for device in devices],
    }


def _digest(traced: jax.stages.Traced) -> str:
    return hashlib.sha256(traced.lower().as_text().encode()).hexdigest()


def _read(folder: pathlib.Path) -> dict[str, Any]:
    try:
        manifest = json.loads(files.read_bytes(folder / MANIFEST, most=1 << 24))
        if manifest["format"] != _FORMAT or not set(manifest) >= _FIELDS:
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "no compiled step in this folder",
            where=str(folder),
            expected=f"{MANIFEST} and {EXECUTABLE}, as scripts/plan.py --save wrote them",
            found=damage.reason(error),
            fix="name such a folder, or leave --compiled out",
        ) from error
    return manifest


def _difference(name: str, stored: dict[str, Any], here: dict[str, Any]) -> str:
    """Returns the first value that differs, "" if none does."""
    for key in sorted(stored.keys() | here.keys()):
        if stored.get(key) != here.get(key):
            return f"its {name} has {key} {stored.get(key)!s:.60}, here {here.get(key)!s:.60}"
    return ""
