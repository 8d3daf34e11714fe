"""Checkpoints in several files (shards) and their `.index.json`."""

import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from softbio_jax.errors import UserError

INDEX = ".index.json"
PART = re.compile(r"-\d{5}-of-(\d{5})\.")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def part(path: pathlib.Path) -> str | None:
    """Returns the checkpoint's name if a file is named like one of its shards, else None."""
    match = PART.search(path.name)
    return None if match is None else f"{path.name[: match.start()]}{path.suffix}"


def lone_part(path: pathlib.Path) -> UserError:
    """Returns the error of a file named like `PART`, given alone; the fix names the index."""
    name = part(path)
    index = path.with_name(f"{name}{INDEX}")
    fix = (
        f"give {index}"
        if index.is_file()
        else f"fetch {index.name} and the other shards, and give the folder"
    )
    return UserError("one shard of a checkpoint in several files", where=str(path), fix=fix)


def read_index(path: pathlib.Path) -> dict[str, set[str]]:
    """Returns file name -> names of the arrays that the index expects in it.

    Raises:
      UserError: not an index, or a file that is not beside it.
    """
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files: dict[str, set[str]] = {}
        for key, name in places.items():
            if not isinstance(name, str):
                raise TypeError(f"{key} is in {name!r}")
            files.setdefault(name, set()).add(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_index(path, f"{type(error).__name__}: {error}") from error
    if not files:
        raise _no_index(path, "an empty weight_map")
    for name in files:
        # Of an index from strangers: no other folder is read, and nothing but weights.
        if name in ("", ".", "..") or re.search(r"[/\\:\0]", name) or not name.endswith(_SUFFIXES):
            raise UserError(
                "an index that names a file outside its folder, or no file of weights",
                where=str(path),
                expected=f"names of files beside it, ending in {', '.join(_SUFFIXES)}",
                found=repr(name),
                fix="ask for a complete checkpoint; nothing was read",
            )
    return files


def load(
    path: pathlib.Path, read: Callable[[pathlib.Path], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Reads the arrays of an index, each from the shard that the index names.

    Args:
      path: the index.
      read: reads one shard.

    Raises:
      UserError: not an index, a missing shard, or shards that hold other arrays.
    """
    files = read_index(path)
    if gone := [name for name in sorted(files) if not path.with_name(name).is_file()]:
        verb = "is" if len(gone) == 1 else "are"
        raise UserError(
            f"{len(gone)} of {len(files)} files of the checkpoint {verb} missing",
            where=str(path),
            found=f"no {', '.join(gone[:3])}",
            fix="fetch them too",
        )
    arrays: dict[str, np.ndarray] = {}
    home = {key: name for name, keys in files.items() for key in keys}
    for name in sorted(files):
        found = read(path.with_name(name))
        problems = []
        if missing := files[name] - found.keys():
            problems.append(f"{name} without {_some(missing)}")
        for key in sorted(found.keys() - files[name])[:1]:  # in two files, unless the index has it nowhere
            other = (
                f", which the index has in {home[key]}" if key in home else ", which the index does not have"
            )
            problems.append(f"{name} with {key}{other}")
        if problems:
            raise UserError(
                "the files differ from their index",
                where=str(path),
                expected="each array once, in the file that the index names",
                found=" and ".join(problems),
                fix="fetch index and files again, of one revision",
            )
        arrays |= found
    return arrays


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _no_index(path: pathlib.Path, found: str) -> UserError:
    expected, fix = "a weight_map of names to files beside it", "give the index, or the file of weights"
    return UserError("no index of a checkpoint", where=str(path), expected=expected, found=found, fix=fix)
