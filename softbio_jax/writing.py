"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, whose file takes the place of `path` at the end.

    Where the block does not end well, `path` is as it was and nothing else is left.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with whole(folder / "table.csv") as temporary:
    ...     _ = temporary.write_text("id,age\\n")
    ...     assert not (folder / "table.csv").exists()
    >>> (folder / "table.csv").read_text()
    'id,age\\n'
    >>> len(list(folder.iterdir()))
    1

    Args:
      path: a file on a disk, in a folder that exists.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, and the folders above it where they are missing."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
