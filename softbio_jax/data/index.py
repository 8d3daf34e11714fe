"""The labels of a prepared split in one small file, read without any image."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import zipfile

import numpy as np

from softbio_jax import untrusted
from softbio_jax.errors import UserError

REPORT = "report.json"  # of the preparation, beside the records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """Everything about the N examples of a split except their pixels."""

    ids: np.ndarray  # (N,) str, unique
    labels: dict[str, np.ndarray]  # task -> (N,) int32, MISSING where unknown
    columns: dict[str, np.ndarray]  # audit column -> (N,) str
    digests: np.ndarray  # (N, 32) uint8, the SHA-256 of each encoded image of the source

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """Returns the SHA-256 (hex) over ids, labels by task name, and image digests."""
        digest = hashlib.sha256()
        digest.update("\n".join(self.ids.tolist()).encode())
        for task in sorted(self.labels):
            digest.update(f"\n{task}\n".encode())
            digest.update(self.labels[task].astype("<i4").tobytes())
        digest.update(np.ascontiguousarray(self.digests).tobytes())
        return digest.hexdigest()


def path_of(directory: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the path of a split's index."""
    return directory / f"index_{split}.npz"


def write(index: Index, directory: pathlib.Path, split: str) -> None:
    """Writes the index of a split beside its records."""
    arrays = {"ids": index.ids, "digests": index.digests}
    arrays |= {f"labels/{task}": values for task, values in index.labels.items()}
    arrays |= {f"columns/{name}": values for name, values in index.columns.items()}
    # numpy's stubs confuse the keywords with its own flag.
    np.savez_compressed(path_of(directory, split), **arrays)  # type: ignore[arg-type]


def read(directory: pathlib.Path, split: str) -> Index:
    """Reads the index of a split.

    Raises:
      UserError: no such split, or a file that is not an index.
    """
    path = path_of(directory, split)
    if not path.is_file():
        splits = sorted(p.stem.removeprefix("index_") for p in directory.glob("index_*.npz"))
        raise UserError(
            "no such prepared split",
            where=f"{directory}, split {split!r}",
            expected=f"one of {', '.join(splits)}" if splits else "a folder of prepared records",
            found="" if splits else ("an empty or other folder" if directory.is_dir() else "none"),
            fix="check the path and the split, or run scripts/prepare_data.py",
        )
    untrusted.check_archive(path, stored=False, what="an index", fix="run scripts/prepare_data.py again")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Index(
            ids=arrays["ids"],
            labels=_under("labels/", arrays),
            columns=_under("columns/", arrays),
            digests=arrays["digests"],
        )
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError("a broken index", where=str(path), fix="run scripts/prepare_data.py again") from error


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
