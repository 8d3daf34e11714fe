"""Models on the Hugging Face Hub: safetensors, config.json and a card, nothing that is run."""

from __future__ import annotations

import pathlib
import re
import tempfile
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle_files, model_card
from softbio_jax.inference.bundle import Bundle, from_run

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
        raise UserError("not a hub id", where="repo_id", expected="owner/name",
                        found=repr(repo_id), fix="name both")  # fmt: skip
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
        raise UserError("not a hub id", where=source, expected="owner/name",
                        found=repr(source), fix="correct it")  # fmt: skip
    try:
        config = hub.hf_hub_download(match[1], bundle_files.CONFIG, revision=match[2])
        folder = pathlib.Path(config).parent
        # Of the same commit, whose name the cache gives its folder.
        hub.hf_hub_download(match[1], bundle_files.WEIGHTS, revision=folder.name)
    except Exception as error:
        raise _refused("cannot fetch from the hub", source, error) from error
    return bundle_files.from_directory(folder)


def _write(source: Bundle | str | pathlib.Path, repo_id: str, folder: pathlib.Path) -> None:
    if isinstance(source, Bundle):
        bundle, text = source, model_card.of_bundle(source, repo_id=repo_id)
    elif bundle_files.is_bundle(pathlib.Path(source)):
        bundle = bundle_files.from_directory(source)
        text = model_card.of_bundle(bundle, repo_id=repo_id)
    else:
        bundle = from_run(source)
        text = model_card.of_run(source, bundle, repo_id=repo_id)
    bundle_files.save(bundle, folder)
    (folder / CARD).write_text(text, encoding="utf-8")


def _library(where: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("huggingface_hub is needed for hub ids", where=where,
                        expected="a folder, or huggingface_hub installed",
                        fix="pip install 'softbio-jax[hub]'") from error  # fmt: skip
    return huggingface_hub


def _refused(what: str, where: str, error: Exception) -> UserError:
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return UserError(what, where=where, expected="a repository that you may use",
                     found=reason, fix="check the id, your login and the network")  # fmt: skip
