"""A checkpoint's manifest: its commit marker, the host's state, and the digest of every part."""

import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from softbio_jax.checkpoints import digest, files, leaves

NAME = "manifest.json"
# Larger files hold array values, whose digests are taken anyway: hashing them twice costs time.
HASHED_FILES = 1 << 20  # bytes
_FIELDS = {"step", "host", "base", "leaves", "files"}


class Damaged(Exception):
    """A checkpoint that is not as it was written; the message tells what."""

    unfinished = False  # its manifest was never written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a whole checkpoint says of itself."""

    step: int
    host: dict[str, Any]  # JSON values: sample stream, course of the validation loss
    base: str  # digest of the frozen tree that the state was trained on
    leaves: dict[str, dict[str, Any]]  # path -> shape, dtype, digest of the array that was saved
    files: dict[str, str]  # file under the checkpoint's folder -> sha256 or size


def describe_files(directory: epath.Path) -> dict[str, str]:
    """Returns the `files` of a manifest: the digest of each, of large ones the size."""
    return digest.of_files(directory, largest=HASHED_FILES)


def write(directory: epath.Path, manifest: Manifest) -> None:
    """Writes the manifest, under its name only once it is whole."""
    values = dataclasses.asdict(manifest)
    text = json.dumps(values | {"sha256": _own_digest(values)}, indent=1)
    files.write_text(directory / NAME, text)


def read(directory: epath.Path) -> Manifest:
    """Reads a manifest back.

    Raises:
      Damaged: there is none (the save was not finished), or it is not as it was written.
    """
    try:
        values = json.loads((directory / NAME).read_bytes())
        own = values.pop("sha256")
    except FileNotFoundError:
        unfinished = Damaged(f"no {NAME}, its save was not finished")
        unfinished.unfinished = True
        raise unfinished from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{NAME} cannot be read") from None
    if set(values) != _FIELDS or own != _own_digest(values):
        raise Damaged(f"{NAME} is not as it was written")
    return Manifest(**values)


def check_files(directory: epath.Path, manifest: Manifest) -> None:
    """Raises Damaged unless every file of the checkpoint is as it was written."""
    found = describe_files(directory)
    found.pop(NAME, None)
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            raise Damaged(f"{name} is missing")
        if name not in manifest.files:
            raise Damaged(f"{name} does not belong to it")
        if manifest.files[name] != found[name]:
            raise Damaged(f"{name} is not as it was written")


def check_leaves(state: Any, manifest: Manifest) -> None:
    """Raises Damaged unless the restored arrays are those that were saved."""
    for name, leaf in leaves.named(state).items():
        saved = manifest.leaves[name]
        if "sha256" in saved:  # checkpoints written with SHA-256 digests
            same = digest.of_array(leaves.to_host(leaf)) == saved["sha256"]
        else:
            same = leaves.again(leaf, saved["digest"]) == saved["digest"]
        if not same:
            raise Damaged(f"{name} is not as it was saved")


def _own_digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
