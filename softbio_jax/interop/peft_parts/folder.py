"""The folder of a PEFT adapter, on this machine or on the hub, and its two files."""

import contextlib
import pathlib
from collections.abc import Iterable

from softbio_jax.errors import UserError
from softbio_jax.interop.reading import locate
from softbio_jax.models.config import VISION

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# In the order in which PEFT looks; the indices are of weights in several files.
_WEIGHTS = (WEIGHTS, "adapter_model.bin", f"{WEIGHTS}.index.json", "adapter_model.bin.index.json")

_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")  # of weights


def resolve(source: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of a path or hub id, downloaded if necessary.

    Raises:
      UserError: neither a path nor an available hub id.
    """
    path = pathlib.Path(source)
    if path.name in (CONFIG, *_WEIGHTS) and is_adapter(path):
        return path.parent
    if path.exists() or not locate.HUB_ID.fullmatch(str(source)):
        return path  # `files_of` says what is missing
    hub = locate.require_hub(str(source), instead="an adapter's folder")
    wanted = [f"*{CONFIG}", "*adapter_model*"]
    try:
        found = pathlib.Path(hub.snapshot_download(str(source), allow_patterns=wanted))
    # Its errors have no common base class; each means that the files are not available.
    except Exception as error:
        raise UserError(
            "neither a folder nor on the hub",
            where=str(source),
            expected="an adapter's folder, or a public repository or a cached copy",
            found=type(error).__name__,
            fix="check the path or id and the network",
        ) from error
    if not is_adapter(found):
        raise UserError(
            "no PEFT adapter",
            where=str(source),
            expected=f"a repository with {CONFIG} and {WEIGHTS}",
            found=f"no {CONFIG}",
            fix="give the adapter's id; an encoder's is read without --src_format=peft, or as --base",
        )
    return found


def is_adapter(path: pathlib.Path) -> bool:
    """Returns whether a path is an adapter's folder, one around adapters alone, or a file of an adapter."""
    if path.is_file():
        folder = path.parent
        return (folder / CONFIG).is_file() and path in files_of(folder)
    return _lists_adapter(
        p.relative_to(path).as_posix() for p in (*path.glob("*"), *path.glob(f"*/{CONFIG}"))
    )


def is_adapter_on_hub(source: str) -> bool:
    """Returns whether a source is a hub id whose files are those of an adapter, as `is_adapter` of a folder.

    Without the network the cached copy decides. An id that is not known is none.

    Raises:
      UserError: a hub id, and huggingface_hub is not installed.
    """
    if not locate.is_hub_id(source) or pathlib.Path(source).name in VISION:
        return False
    hub = locate.require_hub(source, instead="a file or folder")
    # Its errors have no common base class; whoever reads the files then says what is missing.
    with contextlib.suppress(Exception):
        return _lists_adapter(hub.list_repo_files(source))
    with contextlib.suppress(Exception):
        return is_adapter(pathlib.Path(hub.snapshot_download(source, local_files_only=True)))
    return False


def _lists_adapter(files: Iterable[str]) -> bool:
    names = [pathlib.PurePosixPath(name) for name in files]
    # Weights beside a subfolder's adapter are an encoder.
    weights = any(len(name.parts) == 1 and name.suffix in _ENDINGS for name in names)
    inner = any(len(name.parts) == 2 and name.name == CONFIG for name in names)
    return pathlib.PurePosixPath(CONFIG) in names or (inner and not weights)


def files_of(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the configuration and the weights in a folder, or in its only adapter's subfolder.

    PEFT saves an adapter with a name of its own in a subfolder of that name.

    Raises:
      UserError: no such files, or several adapters.
    """
    inner = sorted(path.parent for path in directory.glob(f"*/{CONFIG}"))
    if not (directory / CONFIG).is_file() and inner:
        if len(inner) > 1:
            raise UserError(
                "several adapters in the folder",
                where=str(directory),
                expected=f"one {CONFIG}",
                found=", ".join(path.name for path in inner),
                fix=f"give the folder of one, such as {inner[0]}",
            )
        directory = inner[0]
    if not (directory / CONFIG).is_file():
        raise UserError(
            "no PEFT adapter",
            where=str(directory),
            expected=f"a folder with {CONFIG} and {WEIGHTS}",
            found=", ".join(sorted(path.name for path in directory.glob("*"))[:3]) or "nothing",
            fix="give the folder PEFT saved",
        )
    found = [path for name in _WEIGHTS if (path := directory / name).is_file()]
    if not found:
        raise UserError(
            "an adapter without its weights",
            where=str(directory),
            expected=" or ".join(_WEIGHTS[:3]),
            found=", ".join(sorted(path.name for path in directory.glob("*"))[:3]),
            fix="copy all files that PEFT saved there",
        )
    return directory / CONFIG, found[0]
