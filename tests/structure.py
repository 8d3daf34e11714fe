"""The repository's python files and what they import, from their text alone."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "softbio_jax"
SCRIPTS = ROOT / "scripts"


def python_files(folder):
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def modules(folder):
    """The python files below a folder, without those that only make a folder a package."""
    return [path for path in python_files(folder) if path.name != "__init__.py"]


def place(path):
    """Where a file is in the repository, for messages."""
    return path.relative_to(ROOT).as_posix()


def line_count(path):
    return len(path.read_text().splitlines())


def imported_names(path):
    """Every dotted name that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.relative_to(ROOT).parts[: -node.level]
                base = ".".join((*parents, base)).rstrip(".")
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def within(name, library):
    return name == library or name.startswith(library + ".")
