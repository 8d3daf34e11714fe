"""One way in: a run directory, a saved folder or a hub id, told apart by what is there."""

from __future__ import annotations

import os
import pathlib

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle_files
from softbio_jax.inference.bundle import Bundle, from_run


def open_bundle(source: str | os.PathLike[str]) -> Bundle:
    """Returns the bundle that a source names.

    Args:
      source: a run of scripts/train.py, or a folder that `bundle_files.save` wrote.

    Raises:
      UserError: none of them, or a damaged one.
    """
    path = pathlib.Path(source)
    if not path.is_dir():
        raise UserError("no such model", where=str(source),
                        expected="a run directory or a saved folder",
                        found="a file" if path.is_file() else "nothing",
                        fix="correct the path")  # fmt: skip
    return bundle_files.from_directory(path) if bundle_files.is_bundle(path) else from_run(path)
