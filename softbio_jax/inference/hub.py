"""Models on the Hugging Face Hub: safetensors, config.json and a card, nothing that is run."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.evaluation.report import card, groups, runs
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.bundle import Bundle, from_run


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
    return (
        "\n\n".join(
            [
                '---\nlibrary_name: "softbio_jax"\nlicense: "other"\nlicense_name: "see-card"\n'
                'pipeline_tag: "image-classification"\n---',
                f"# {bundle.name}",
                f"{bundle.encoder.name} adapted by {bundle.method} to {tasks} from faces, with softbio_jax.",
                "## Results\n\nNone came with the weights: evaluate it before any use.",
                _usage(bundle, repo_id).strip(),
                f"## Intended use\n\n{card.USE.strip()}",
                f"## Limits\n\n{card.LIMITS.strip()}",
            ]
        )
        + "\n"
    )


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


CARD = "README.md"
_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


def is_id(source: str) -> bool:
    """Tells whether a text has the form of a hub id, `owner/name` or `owner/name@revision`."""
    return _ID.fullmatch(source) is not None


def push(source: Bundle | str | pathlib.Path, repo_id: str, *, private: bool = True) -> str:
    """Uploads a model in one commit, with a card; the repository is made if need be.

    Args:
      source: a run, whose card then has its results, or a saved folder, or a bundle.
      repo_id: owner/name.
      private: of a repository that is made now.

    Returns:
      The commit's address.

    Raises:
      UserError: no model, a run that was never evaluated, not a hub id, or what the hub refused.
    """
    hub = _library(repo_id)
    if not is_id(repo_id) or "@" in repo_id:
        raise UserError(
            "not a hub id", where="repo_id", expected="owner/name", found=repr(repo_id), fix="name both"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "model"
        _write(source, repo_id, folder)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            done = hub.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="A softbio_jax model"
            )
        except Exception as error:  # the library's errors have no common base
            raise _refused("cannot push to the hub", repo_id, error) from error
    return str(done.commit_url)


def pull(source: str) -> Bundle:
    """Downloads a model, or takes it from the cache where it is there or the network is not.

    Args:
      source: owner/name, or owner/name@revision.

    Raises:
      UserError: it cannot be had, or is no model of this library.
    """
    hub = _library(source)
    match = _ID.fullmatch(source)
    if match is None:
        raise UserError(
            "not a hub id", where=source, expected="owner/name", found=repr(source), fix="correct it"
        )
    try:
        config = hub.hf_hub_download(match[1], bundle_lib.CONFIG, revision=match[2])
        folder = pathlib.Path(config).parent
        # Of the same commit, whose name the cache gives its folder.
        hub.hf_hub_download(match[1], bundle_lib.WEIGHTS, revision=folder.name)
    except Exception as error:
        raise _refused("cannot fetch from the hub", source, error) from error
    return bundle_lib.from_directory(folder)


def _write(source: Bundle | str | pathlib.Path, repo_id: str, folder: pathlib.Path) -> None:
    if isinstance(source, Bundle):
        bundle, text = source, of_bundle(source, repo_id=repo_id)
    elif bundle_lib.is_bundle(pathlib.Path(source)):
        bundle = bundle_lib.from_directory(source)
        text = of_bundle(bundle, repo_id=repo_id)
    else:
        bundle = from_run(source)
        text = of_run(source, bundle, repo_id=repo_id)
    bundle_lib.save(bundle, folder)
    (folder / CARD).write_text(text, encoding="utf-8")


def _library(where: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "huggingface_hub is needed for hub ids",
            where=where,
            expected="a folder, or huggingface_hub installed",
            fix="pip install 'softbio-jax[hub]'",
        ) from error
    return huggingface_hub


def _refused(what: str, where: str, error: Exception) -> UserError:
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return UserError(
        what,
        where=where,
        expected="a repository that you may use",
        found=reason,
        fix="check the id, your login and the network",
    )
