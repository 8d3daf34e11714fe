"""Writes the API pages, docs/api/*.md, from the public names that the packages list.

python scripts/dev/api_pages.py

A package's public names are those of its `__init__.pyi`; of a module at the top level, all names
are public. `make docs` puts their docstrings in the place of the names.
"""

import ast
import importlib
import pathlib
from collections.abc import Iterator, Sequence

from softbio_jax import command, ranges

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PACKAGE = _ROOT / "softbio_jax"
_PAGES = _ROOT / "docs" / "api"
_SHAPES = "Shapes: B batch, H W image, N tokens, D width, K heads, R rank, T tasks, C classes, L layers."
# Page -> its title, and the packages and modules on it.
PAGES = {
    "inference": (
        "Use a model",
        (
            *("inference", "inference.bulk", "inference.tracking"),
            *("inference.export", "inference.reference", "inference.latency"),
        ),
    ),
    "models": ("Models", ("models", "models.attention", "models.families")),
    "adapters": ("Adapters and methods", ("adapters",)),
    "losses": ("Losses", ("losses",)),
    "data": ("Data", ("data", "data.prepare", "data.partial", "data.audit", "data.drawing")),
    "runs": ("Runs", ("runs",)),
    "train": ("Training", ("train", "train.distillation", "train.probing")),
    "evaluation": (
        "Evaluation",
        (
            "evaluation",
            "evaluation.metrics",
            "evaluation.report",
            "evaluation.report.comparing",
            "evaluation.robustness",
            "evaluation.zero_shot",
        ),
    ),
    "planning": ("Planning", ("planning",)),
    "notebook": ("Notebooks", ("notebook",)),
    "interop": (
        "Interop and checkpoints",
        ("interop", "interop.families", "interop.peft_parts", "interop.reading", "checkpoints"),
    ),
    "core": (
        "Tasks, parameters, errors",
        (
            *("tasks", "coverage", "ranges", "registry", "params", "errors", "console", "escaping"),
            *("files", "safety", "command", "__main__"),
        ),
    ),
}
# Page -> classes whose fields, at any depth, it lists.
FIELDS = {
    "runs": ("softbio_jax.runs.config:RunConfig",),
    "adapters": ("softbio_jax.adapters.config:LoRAConfig",),
    "models": ("softbio_jax.models.config:VisionConfig", "softbio_jax.models.config:TextConfig"),
}


def main(_: Sequence[str]) -> None:
    for name in PAGES:
        (_PAGES / f"{name}.md").write_text(page(name))
    print(f"wrote {len(PAGES)} pages to {_PAGES.relative_to(_ROOT)}")


def page(name: str) -> str:
    """Returns the text of a page of `PAGES`."""
    title, parts = PAGES[name]
    return (
        "\n\n".join(
            [f"# {title}", _SHAPES, *(section for part in parts for section in _sections(part))]
            + [_table(of) for of in FIELDS.get(name, ())]
        )
        + "\n"
    )


def public_names(part: str) -> dict[str, str]:
    """Returns the public names of a package such as "data.prepare", each with the module that defines it.

    A public module has none: its module is "".
    """
    stub = _PACKAGE.joinpath(*part.split("."), "__init__.pyi")
    return {
        alias.name: node.module or ""
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _table(of: str) -> str:
    module, _, name = of.partition(":")
    fields = ranges.documented(getattr(importlib.import_module(module), name))
    rows = [
        f"| `{field}` | {values} | {f'`{default}`' if default else ''} | {meaning} |"
        for field, values, default, meaning in fields
    ]
    heading = f"### Fields of {name}\n\n| field | values | default | meaning |\n|---|---|---|---|\n"
    return heading + "\n".join(rows)


def _sections(part: str) -> Iterator[str]:
    if _PACKAGE.joinpath(*part.split(".")).with_suffix(".py").exists():
        yield f"::: softbio_jax.{part}"
        return
    folder = _PACKAGE.joinpath(*part.split("."))
    yield f"## softbio_jax.{part}"
    yield str(ast.get_docstring(ast.parse((folder / "__init__.py").read_text())))
    for name, module in public_names(part).items():
        path = ".".join(filter(None, ("softbio_jax", part, module, name)))
        yield f"::: {path}\n    options: {{heading_level: 3}}"


if __name__ == "__main__":
    command.run(main)
