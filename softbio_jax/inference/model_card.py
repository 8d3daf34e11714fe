"""The README.md of a model that is shared: what it is, how good, for what, and how to use it."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from softbio_jax.evaluation.report import card, groups, runs
from softbio_jax.inference.bundle import Bundle


def of_run(workdir: str | pathlib.Path, bundle: Bundle, *, repo_id: str) -> str:
    """Returns the result card of an evaluated run, without this machine's folders.

    Args:
      workdir: the run.
      bundle: the model that was made from it.
      repo_id: owner/name.

    Raises:
      UserError: the run was never evaluated.
    """
    run = runs.load(pathlib.Path(workdir).resolve(), name=bundle.name)
    command = str(run.info.get("command", "not recorded"))
    published = dataclasses.replace(
        run, config=_without_folders(run.config), info=dict(run.info) | {"command": _bare(command)}
    )
    text = card.render(published, groups.audits([run])[run.name])
    before, heading, after = text.partition("\n## Intended use")
    return before + "\n" + _usage(bundle, repo_id) + heading + after


def of_bundle(bundle: Bundle, *, repo_id: str) -> str:
    """Returns the card of a model whose run is not at hand: no figures."""
    tasks = ", ".join(task.name for task in bundle.tasks)
    return "\n\n".join([
        '---\nlibrary_name: "softbio_jax"\nlicense: "other"\nlicense_name: "see-card"\n'
        'pipeline_tag: "image-classification"\n---',
        f"# {bundle.name}",
        f"{bundle.tower.name} adapted by {bundle.method} to {tasks} from faces, with softbio_jax.",
        "## Results\n\nNone came with the weights: evaluate it before any use.",
        _usage(bundle, repo_id).strip(),
        f"## Intended use\n\n{card.USE.strip()}",
        f"## Limits\n\n{card.LIMITS.strip()}",
    ]) + "\n"  # fmt: skip


def _usage(bundle: Bundle, repo_id: str) -> str:
    classes = "\n".join(f"- {task.name}: {', '.join(task.classes)}" for task in bundle.tasks)
    size = bundle.image_size
    return f"""
## How to use

```python
import softbio_jax

model = softbio_jax.load("{repo_id}")
model.predict("face.jpg")         # a face crop, squashed to {size} x {size} pixels
model.predict_faces("photo.jpg")  # finds the faces first
```

Weights are safetensors with the adapters merged, settings are `config.json`; nothing is unpickled.

{classes}
"""


def _without_folders(value: Any) -> Any:
    """Absolute paths say where somebody's files are: only their last names stay."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, str):
        return _bare(value)
    return value


def _bare(text: str) -> str:
    return re.sub(r"(^|[=\s])(?:~|/)[^\s=]*/(?=[^\s/])", r"\1", text)
