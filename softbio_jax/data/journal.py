"""The pictures checked so far, on disk, so that a preparation that was cut off goes on."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct

# Length of the id, SHA-256 of the source's picture, whether bytes of its own are stored, and
# how many.
_HEAD = struct.Struct("<I32s?I")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A picture that decodes: the SHA-256 of its source, and what to store.

    Args:
      digest: 32 bytes.
      data: the bytes to store; None where they are the source's own.
    """

    digest: bytes
    data: bytes | None


class Journal:
    """Entries by row id in one file; what was written whole survives the end of the process.

    Args:
      path: the file; made if it is not there.
    """

    def __init__(self, path: pathlib.Path):
        path.touch()
        self._file = path.open("r+b")
        self._places: dict[str, int] = {}
        end, size = 0, path.stat().st_size
        while end + _HEAD.size <= size:
            id_length, _, _, data_length = _HEAD.unpack(os.pread(self._descriptor, _HEAD.size, end))
            following = end + _HEAD.size + id_length + data_length
            if following > size:
                break  # cut off while it was written
            row_id = os.pread(self._descriptor, id_length, end + _HEAD.size).decode()
            self._places[row_id] = end
            end = following
        self._file.truncate(end)
        self._file.seek(end)
        self._end = end

    def __len__(self) -> int:
        return len(self._places)

    def get(self, row_id: str) -> Entry | None:
        """Looks a row up; safe to call from several threads."""
        place = self._places.get(row_id)
        if place is None:
            return None
        head = os.pread(self._descriptor, _HEAD.size, place)
        id_length, digest, own, data_length = _HEAD.unpack(head)
        data = os.pread(self._descriptor, data_length, place + _HEAD.size + id_length)
        return Entry(digest, data if own else None)

    def add(self, row_id: str, entry: Entry) -> None:
        """Writes the entry of a row; from one thread only."""
        name, data = row_id.encode(), entry.data or b""
        head = _HEAD.pack(len(name), entry.digest, entry.data is not None, len(data))
        self._file.write(head + name + data)
        self._file.flush()
        self._places[row_id] = self._end
        self._end += len(head) + len(name) + len(data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def _descriptor(self) -> int:
        return self._file.fileno()
