"""Models on the Hugging Face Hub: safetensors, config.json and a model card, without code."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

from softbio_jax import coverage
from softbio_jax.errors import UserError
from softbio_jax.escaping import markdown
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import run_bundle
from softbio_jax.inference.bundle import Bundle

CARD = "README.md"
_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
_USAGE = """
## How to use

```python
import softbio_jax

model = softbio_jax.load("{repo_id}")
model.predict("face.jpg")         # a face crop, squashed to {size} x {size} pixels
model.predict_faces("photo.jpg")  # detects the faces first
```

Weights are safetensors with the adapters merged, settings are `config.json`; nothing is unpickled.

{classes}
"""
_UNEVALUATED = """\
---
library_name: "softbio_jax"
license: "other"
license_name: "see-card"
pipeline_tag: "image-classification"
---

# {name}

{variant} adapted by {method} to {tasks} from faces, with softbio_jax.

## Results

None came with the weights: evaluate the model before any use.
{usage}
## Intended use

{use}

## Limits

{limits}
"""


def is_id(source: str) -> bool:
    """Returns whether a text has the form of a hub id, `owner/name` or `owner/name@revision`."""
    return _ID.fullmatch(source) is not None


def push(source: Bundle | str | pathlib.Path, repo_id: str, *, private: bool = True) -> str:
    """Uploads a model and its card in one commit, and returns the commit's address.

    Args:
      source: a run, whose card then has its results, or a saved folder, or a bundle.
      repo_id: owner/name; a missing repository is created.
      private: whether a repository that is created now is private.

    Raises:
      UserError: no model, a run that was never evaluated, not a hub id, or a refusal of the hub.
    """
    hub = _library(repo_id)
    if not is_id(repo_id) or "@" in repo_id:
        raise _not_an_id("repo_id", repo_id)
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
    """Downloads owner/name or owner/name@revision, or reads it from the cache without the network.

    Raises:
      UserError: it is unavailable, or not a model of this library.
    """
    hub = _library(source)
    match = _ID.fullmatch(source)
    if match is None:
        raise _not_an_id(source, source)
    try:
        config = hub.hf_hub_download(match[1], bundle_lib.CONFIG, revision=match[2])
        folder = pathlib.Path(config).parent
        # Of the same commit: the cache names the folder by it.
        hub.hf_hub_download(match[1], bundle_lib.WEIGHTS, revision=folder.name)
    except Exception as error:
        raise _refused("cannot fetch from the hub", source, error) from error
    return bundle_lib.from_directory(folder)


def card_of_run(workdir: str | pathlib.Path, bundle: Bundle, *, repo_id: str) -> str:
    """Returns the result card of an evaluated run, without the paths of this machine.

    Raises:
      UserError: the run was never evaluated.
    """
    from softbio_jax.evaluation.report import card, groups, runs

    run = runs.load(pathlib.Path(workdir).resolve(), name=bundle.name)
    command = str(run.info.get("command", "not recorded"))
    published = dataclasses.replace(
        run, config=_without_folders(run.config), info=dict(run.info) | {"command": _bare(command)}
    )
    text = card.render(published, groups.audits([run])[run.name])
    before, heading, after = text.partition("\n## Intended use")
    return before + "\n" + _usage(bundle, repo_id) + heading + after


def card_of_bundle(bundle: Bundle, *, repo_id: str) -> str:
    """Returns the card of a model without its run, and so without metrics."""
    from softbio_jax.evaluation.report import card

    return _UNEVALUATED.format(
        name=markdown(bundle.name),
        variant=markdown(bundle.variant),
        method=markdown(bundle.method),
        tasks=markdown(", ".join(task.name for task in bundle.tasks)),
        usage=_usage(bundle, repo_id),
        use=card.USE.strip(),
        limits=card.LIMITS.strip(),
    )


def _usage(bundle: Bundle, repo_id: str) -> str:
    images = bundle.training_images
    classes = "\n".join(
        f"- {markdown(task.name)}: "
        + markdown(", ".join(coverage.marked(images, task.name, name) for name in task.classes))
        for task in bundle.tasks
    )
    classes += "".join(f"\n\n{coverage.MARK} {markdown(note)}" for note in coverage.notes(images))
    return _USAGE.format(repo_id=repo_id, size=bundle.image_size, classes=classes)


def _without_folders(value: Any) -> Any:
    """Reduces absolute paths to their last names: a published card must not reveal the folders."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    return _bare(value) if isinstance(value, str) else value


def _bare(text: str) -> str:
    return re.sub(r"(^|[=\s])(?:~|/)[^\s=]*/(?=[^\s/])", r"\1", text)


def _write(source: Bundle | str | pathlib.Path, repo_id: str, folder: pathlib.Path) -> None:
    """Writes everything that is uploaded."""
    if isinstance(source, str | pathlib.Path) and not bundle_lib.is_bundle(pathlib.Path(source)):
        bundle = run_bundle.from_run(source)
        text = card_of_run(source, bundle, repo_id=repo_id)
    else:
        bundle = source if isinstance(source, Bundle) else bundle_lib.from_directory(source)
        text = card_of_bundle(bundle, repo_id=repo_id)
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


def _not_an_id(where: str, found: str) -> UserError:
    return UserError("not a hub id", where=where, expected="owner/name", found=repr(found), fix="correct it")


def _refused(what: str, where: str, error: Exception) -> UserError:
    message = str(error).strip().splitlines()
    return UserError(
        what,
        where=where,
        expected="a repository that you may use",
        found=f"{type(error).__name__}: {message[0]}" if message else type(error).__name__,
        fix="check the id, your login and the network",
    )
