"""Rows of a plan in a JSON file, so that an interrupted plan compiles nothing twice."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any

import jax

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.planning.fit import Fit
from softbio_jax.runs.config import RunConfig


class SavedRows:
    """Compiled steps by topology, config and compiler version, in memory and in a file if there is a path.

    Raises:
      UserError: the file holds something else.
    """

    def __init__(self, path: pathlib.Path | None):
        self._path = path
        self._rows = _read(path) if path else []

    def get(self, config: RunConfig, topology: str) -> Fit | None:
        """Returns the row of a config, None if there is none."""
        key = _key(config)
        for row in self._rows:
            if (row["key"], row["topology"]) == (key, topology):
                return Fit(**row["fit"])
        return None

    def add(self, config: RunConfig, topology: str, found: Fit) -> None:
        """Adds a row, keeping those that another process has written in the meantime."""
        if self._path:
            self._rows = _read(self._path)
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        del values["step"]
        row = {"topology": topology, "fit": values, "day": day}
        self._rows.append({**row, "versions": versions(), "key": _key(config)})
        if self._path:
            files.write_text(self._path, json.dumps({"rows": self._rows}, indent=1) + "\n")

    def largest_rows(self, topology: str, remat: str) -> int:
        """Returns the largest number of rows per chip that fitted on any slice of the same chips, or 0.

        Without sharded weights a chip runs the same program in every slice, so it is a good guess.
        """
        chip = topology.partition(":")[0]
        fits = [Fit(**row["fit"]) for row in self._rows if row["topology"].partition(":")[0] == chip]
        return max((f.batch_size // f.chips for f in fits if f.fits and f.remat == remat), default=0)


def versions() -> str:
    """Returns the versions of JAX and libtpu, which determine the compiled program."""
    try:
        return f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}"
    except importlib.metadata.PackageNotFoundError:
        return f"jax {jax.__version__}"


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
        for row in rows:
            Fit(**row["fit"]), row["key"], row["topology"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "not the rows of a plan",
            where=str(path),
            expected="a file that --out wrote",
            found=repr(error)[:100],
            fix="name another --out",
        ) from error
    return rows


def described(config: RunConfig) -> dict[str, Any]:
    """Returns every field of a configuration that a compiled step may depend on, by its name."""
    values = dataclasses.asdict(config) | {"data": None, "seed": None}
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    add("", json.loads(json.dumps(values, default=str)))
    return flat


def _key(config: RunConfig) -> str:
    """Returns a digest of everything that the compiled step depends on."""
    # Rows without parts are of an older version, whose bound had no links.
    values = dataclasses.asdict(config) | {"data": None, "seed": None, "versions": versions(), "row": "parts"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
