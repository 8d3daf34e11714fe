"""The manifest of a checkpoint: what a complete one consists of, with digests."""

import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from softbio_jax import files
from softbio_jax.checkpoints import leaves

NAME = "manifest.json"
# Larger files hold array values, which have digests of their own: hashing both would cost time.
HASHED_FILES = 1 << 20  # bytes


class Damaged(Exception):
    """A checkpoint that differs from what was written; the message names the part."""

    unfinished = False  # its manifest was never written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a complete checkpoint."""

    step: int
    host: dict[str, Any]  # JSON values: position in the sample stream, validation losses
    base: str  # digest of the frozen weights that the state was trained on
    leaves: dict[str, dict[str, Any]]  # path -> shape, dtype and digest of the saved array
    files: dict[str, str]  # file relative to the checkpoint -> SHA-256, or size of a large one
    run: dict[str, Any] = dataclasses.field(default_factory=dict)  # what is the same in all of a run


_FIELDS = {field.name for field in dataclasses.fields(Manifest)}


def write(directory: epath.Path, manifest: Manifest) -> None:
    """Writes the manifest with its own digest; the file appears only once complete."""
    values = dataclasses.asdict(manifest)
    files.write_text(directory / NAME, json.dumps(values | {"sha256": _digest(values)}, indent=1))


def read(directory: epath.Path, step: int) -> Manifest:
    """Reads the manifest of the checkpoint of a step.

    Raises:
      Damaged: it is missing (the save was not finished), differs from what was written, or is that
        of another step.
    """
    try:
        values = json.loads((directory / NAME).read_bytes())
        own = values.pop("sha256")
    except FileNotFoundError:
        unfinished = Damaged(f"no {NAME}, its save was not finished")
        unfinished.unfinished = True
        raise unfinished from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{NAME} cannot be read") from None
    # Older ones do not have the run.
    if set(values) | {"run"} != _FIELDS or own != _digest(values):
        raise Damaged(f"{NAME} is not as it was written")
    saved = Manifest(**values)
    if saved.step != step:
        raise Damaged(f"it was saved after step {saved.step}, so its folder was renamed")
    return saved


def digest(manifest: Manifest) -> str:
    """Returns the digest that a manifest's file has of itself, which covers every leaf's."""
    return _digest(dataclasses.asdict(manifest))


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def describe_files(directory: epath.Path) -> dict[str, str]:
    """Returns the `files` of a manifest."""
    return leaves.of_files(directory, largest=HASHED_FILES)


def check_files(directory: epath.Path, manifest: Manifest) -> None:
    """Raises Damaged unless the checkpoint has the files that were written, unchanged."""
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
    """Raises Damaged unless the restored arrays equal the saved ones; every process must call it."""
    changed = []
    for name, leaf in leaves.named(state).items():  # all of them: digests may need every process
        saved = manifest.leaves[name]
        if "sha256" in saved:  # checkpoints with SHA-256 digests
            same = leaves.of_array(leaves.to_host(leaf)) == saved["sha256"]
        else:
            same = leaves.again(leaf, saved["digest"]) == saved["digest"]
        changed += [] if same else [name]
    if changed:
        raise Damaged(f"{changed[0]} is not as it was saved")
