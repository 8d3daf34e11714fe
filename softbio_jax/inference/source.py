"""One way in: a run directory, a saved folder or a hub id, told apart by what is there."""

from __future__ import annotations

import os
import pathlib

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle_files, hub
from softbio_jax.inference.bundle import Bundle, from_run


def open_bundle(source: str | os.PathLike[str]) -> Bundle:
    """Returns the bundle that a source names.

    Args:
      source: a run of scripts/train.py, a folder that `bundle_files.save` wrote, or, where no
        such folder is, a hub id.

    Raises:
      UserError: none of them, or a damaged one.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        return bundle_files.from_directory(path) if bundle_files.is_bundle(path) else from_run(path)
    # Paths such as runs/mine have the form of ids: a parent that is there tells a slip.
    slip = path.exists() or (len(path.parts) > 1 and path.parent.is_dir())
    if isinstance(source, str) and hub.is_id(source) and not slip:
        return hub.pull(source)
    found = "a file" if path.is_file() else "nothing"
    raise UserError("no such model", where=str(source), found=found, fix="correct the path",
                    expected="a run directory, a saved folder or a hub id")  # fmt: skip
