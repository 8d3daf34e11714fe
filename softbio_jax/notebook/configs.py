"""The configurations that the package carries, for code that is no command."""

from __future__ import annotations

import pathlib
import runpy
from typing import Any

from softbio_jax.command import SHIPPED, configurations
from softbio_jax.errors import UserError
from softbio_jax.runs.config import RunConfig, config_from


def config(name: str, **values: Any) -> RunConfig:
    """Returns a run's configuration, as `--config=NAME` and `--config.KEY=VALUE` make it.

    Args:
      name: a file and the arguments of its get_config, such as `configs/finetune.py:method=lora`.
        `configs/` and `assets/` are those of the package, unless the current folder has the file.
      **values: replace values of the file, with `__` for the dots: `data__root="data"`.

    Raises:
      UserError: no such file, arguments that it does not take, or what `config_from` refuses.
    """
    path, _, arguments = name.partition(":")
    file = pathlib.Path(_found(path))
    if not file.is_file():
        known = ", ".join(f"configs/{path.name}" for path in configurations())
        raise UserError("no such configuration", where=name, expected=known, fix="name one of them")
    try:
        found = runpy.run_path(str(file))["get_config"](arguments).to_dict()
    except ValueError as error:
        raise UserError("bad arguments", where=name, found=str(error), fix="correct them") from error
    for dotted, value in values.items():
        *parents, key = dotted.split("__")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = _found(value) if isinstance(value, str) else value
    return config_from(found)


def _found(path: str) -> str:
    """Returns the path of a file of the package, any other text as it is."""
    shipped = path.startswith(("configs/", "assets/")) and not pathlib.Path(path).exists()
    return str(SHIPPED / path) if shipped and (SHIPPED / path).exists() else path
