"""Features on disk: shards of rows, in a folder named after everything they depend on."""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from softbio_jax import writing
from softbio_jax.checkpoints import digest
from softbio_jax.errors import UserError

SHARD_ROWS = 1024


class FeatureStore:
    """The features of N pictures in one view, as safetensors files of 1,024 rows.

    A file has `features` (n, D), float32 or the bits of bfloat16, and `decoded` (n,), False where
    the picture could not be decoded. It is written under a temporary name first: what an
    interrupted pass leaves is whole shards.

    Args:
      root: folder of all stores.
      identity: JSON values that the features follow from. Another identity is another folder.
      rows: N.
    """

    def __init__(self, root: pathlib.Path, identity: Mapping[str, Any], *, rows: int):
        self._text = json.dumps(identity, indent=2, sort_keys=True) + "\n"
        self.folder = root / hashlib.sha256(self._text.encode()).hexdigest()[:16]
        self._rows = rows

    def shards(self) -> Iterator[slice]:
        """Yields the rows of each shard."""
        for start in range(0, self._rows, SHARD_ROWS):
            yield slice(start, min(start + SHARD_ROWS, self._rows))

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns a shard's features (n, D) and decoded (n,), None where it is not there.

        A shard whose bytes are not those that were written counts as not there.
        """
        path = self._path(rows)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "numpy") as file:
                about = file.metadata()
                features, decoded = file.get_tensor("features"), file.get_tensor("decoded")
            features, written = features.view(np.dtype(about["dtype"])), about["digest"]
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
            return None
        whole = written == _digest(features, decoded) and len(decoded) == rows.stop - rows.start
        return (features, decoded) if whole else None

    def write(self, rows: slice, features: np.ndarray, decoded: np.ndarray) -> None:
        """Writes a shard.

        Raises:
          UserError: it cannot be written.
        """
        about = {"dtype": features.dtype.name, "digest": _digest(features, decoded)}
        # numpy has no bfloat16 that safetensors knows: the bits go in as whole numbers.
        bits = features.view(np.uint16) if features.dtype == ml_dtypes.bfloat16 else features
        arrays = {"features": np.ascontiguousarray(bits), "decoded": decoded}
        data = safetensors.numpy.save(arrays, about)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with writing.whole(self._path(rows)) as temporary:
                temporary.write_bytes(data)
            if not (told := self.folder / "identity.json").exists():
                writing.write_text(told, self._text)
        except OSError as error:
            raise UserError("features cannot be written", where=str(self.folder),
                            found=str(error), fix="check space and permissions, or give another "
                            "train.cache_dir; whole shards are kept") from error  # fmt: skip

    def _path(self, rows: slice) -> pathlib.Path:
        return self.folder / f"{rows.start:07d}-{rows.stop:07d}.safetensors"


def _digest(features: np.ndarray, decoded: np.ndarray) -> str:
    return digest.of_array(features) + digest.of_array(decoded)
