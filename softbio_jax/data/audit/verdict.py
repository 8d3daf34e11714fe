"""The verdict of the last audit, beside the records, for training runs to record."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.safety import untrusted

_FILE = "audit_verdict.json"
_FIX = "delete it, or run scripts/audit_data.py again"


def store(directory: str | os.PathLike, verdict: Mapping[str, Any]) -> None:
    """Writes an audit's verdict beside the records of a prepared folder."""
    text = json.dumps(verdict, indent=2, sort_keys=True) + "\n"
    files.write_text(pathlib.Path(directory) / _FILE, text)


def load(directory: str | os.PathLike) -> dict[str, Any] | None:
    """Returns `findings.audit`'s "verdict" of a prepared folder; None if it was never audited.

    Raises:
      UserError: the file is damaged.
    """
    path = pathlib.Path(directory) / _FILE
    if not path.is_file():
        return None
    verdict = untrusted.read_json(path, wrong="a damaged verdict of an audit", fix=_FIX, own=True)
    if not isinstance(verdict.get("sha256"), str):
        raise UserError("a damaged verdict of an audit", where=str(path), found="no sha256", fix=_FIX)
    return verdict
