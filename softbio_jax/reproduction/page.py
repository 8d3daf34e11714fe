"""A page whose tables are those of collected figures."""

import pathlib
import re
from collections.abc import Mapping

from softbio_jax import writing
from softbio_jax.errors import UserError
from softbio_jax.reproduction import figures
from softbio_jax.reproduction.tables import all_tables

_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables_of(source: pathlib.Path) -> dict[str, str]:
    """Returns the tables of a file of collected figures, by name.

    Raises:
      UserError: no such file, or another content.
    """
    return all_tables(figures.read(source))


def text(tables: Mapping[str, str]) -> str:
    """Returns all tables, each under its name."""
    return "\n\n".join(f"## {name}\n\n{table}" for name, table in tables.items())


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Returns a page with the tables between its markers, `<!-- table: NAME -->` and
    `<!-- end -->`.

    Raises:
      UserError: no marker, or one of a table that does not exist.
    """
    names = [match["name"] for match in _BLOCK.finditer(page)]
    unknown = [name for name in names if name not in tables]
    if not names or unknown:
        raise UserError("nowhere to put the tables", expected="<!-- table: NAME --> with a name "
                        f"of {', '.join(tables)}, then <!-- end -->",
                        found=unknown[0] if unknown else "no marker",
                        fix="correct the page")  # fmt: skip
    return _BLOCK.sub(lambda match: f"{match[1]}\n{tables[match['name']]}\n\n{match[3]}", page)


def fill(path: pathlib.Path, tables: Mapping[str, str]) -> None:
    """Writes the tables into a page; it is whole at any time."""
    writing.write_text(path, filled(path.read_text(), tables))
