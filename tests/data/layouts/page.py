"""The table of layouts in docs/data.md.

python -m tests.data.layouts.page            prints the table
python -m tests.data.layouts.page --write    writes it to the page
"""

import pathlib
import re
import sys

from tests.data.layouts import general, named
from tests.data.layouts.tree import Tree

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "data.md"
HEADER = "| layout | contents of `--source` | flags |\n|---|---|---|\n"
_TABLE = re.compile(re.escape(HEADER) + r"(?:\|.*\n)*")


def trees() -> list[Tree]:
    """Returns all layouts, sorted by data set and name."""
    return sorted((*general.TREES, *named.TREES), key=lambda tree: (tree.data_set, tree.name))


def table() -> str:
    return HEADER + "".join(f"| {tree.name} | {tree.layout} | `{tree.flags}` |\n" for tree in trees())


def main() -> None:
    if "--write" in sys.argv:
        PAGE.write_text(_TABLE.sub(lambda _: table(), PAGE.read_text()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
