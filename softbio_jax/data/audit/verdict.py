"""The verdict of the last audit, beside the records, for training runs to record."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax import files

_FILE = "audit_verdict.json"


def store(directory: str | os.PathLike, verdict: Mapping[str, Any]) -> None:
    """Writes an audit's verdict beside the records of a prepared folder."""
    text = json.dumps(verdict, indent=2, sort_keys=True) + "\n"
    files.write_text(pathlib.Path(directory) / _FILE, text)


def load(directory: str | os.PathLike) -> dict[str, Any] | None:
    """Returns `findings.audit`'s "verdict" of a prepared folder; None if it was never audited."""
    path = pathlib.Path(directory) / _FILE
    return json.loads(path.read_text()) if path.is_file() else None
