"""Texts to token ids as the reference's byte-pair tokenizer gives them.

The vocabulary comes from a library. The ids of the package's own prompts are stored with them, so
that these need no tokenizer.
"""

import functools
import html
import importlib.resources
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from softbio_jax.errors import UserError

START, END, PAD = 49406, 49407, 0
# Any of CLIP's repositories has the same file.
_HUB_REPOSITORY, _HUB_FILE = "openai/clip-vit-base-patch32", "tokenizer.json"
_OTHERWISE = ", or use prompts of the package"

Encode = Callable[[str], Sequence[int]]


def tokenize(texts: Sequence[str], *, context: int, file: str | pathlib.Path | None = None) -> np.ndarray:
    """Returns the ids of each text between start and end marks, padded or cut to the context.

    A text that is too long keeps its first context - 1 ids and ends with the end mark.

    Args:
      texts: C texts.
      context: N >= 2, the text encoder's context length.
      file: a `tokenizer.json` of CLIP; None: instant-clip-tokenizer, or if it is not installed,
        CLIP's file on the hub.

    Returns:
      (C, N) int32, 0 after the end mark.

    Raises:
      UserError: a text is not stored and no tokenizer is available.
    """
    ids = np.full((len(texts), context), PAD, np.int32)
    for row, text in zip(ids, texts, strict=True):
        known = stored_ids().get(text) if file is None else None
        found = known or [START, *load_encoder(file)(clean(text)), END]
        row[: len(found)] = found[:context]
        if len(found) > context:
            row[-1] = END
    return ids


def clean(text: str) -> str:
    """Returns a text as the reference cleans it: repaired, unescaped, one space, lower case.

    Raises:
      UserError: ftfy is not installed.
    """
    try:
        import ftfy
    except ImportError as error:
        fix = "pip install 'softbio-jax[text]', or use prompts of the package"
        raise UserError("ftfy is needed to clean prompts", where=repr(text), fix=fix) from error
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip().lower()


@functools.cache
def stored_ids() -> dict[str, list[int]]:
    """Returns the ids, with start and end marks, of every prompt of the package."""
    folder = importlib.resources.files(__package__) / "prompt_sets"
    return json.loads((folder / "ids.json").read_text(encoding="utf-8"))


@functools.cache
def load_encoder(file: str | pathlib.Path | None = None) -> Encode:
    """Returns a function from a clean text to its ids, without start and end marks; see `tokenize`.

    Raises:
      UserError: no tokenizer is installed, or the file is unusable.
    """
    if file is None:
        try:
            import instant_clip_tokenizer

            return instant_clip_tokenizer.Tokenizer().encode
        except ImportError:  # it has no wheel for python 3.13
            file = hub_file(_HUB_REPOSITORY, otherwise=_OTHERWISE)
    return _load_file(str(file))


def _load_file(path: str) -> Encode:
    tokenizer = open_file(path, kind="CLIP", vocab=END + 1, source=_HUB_REPOSITORY)
    # The text is already clean, and this normaliser does more than the reference.
    tokenizer.normalizer = None
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def open_file(path: str, *, kind: str, vocab: int, source: str) -> Any:
    """Returns the tokenizer of a `tokenizer.json`, which neither cuts nor pads nor reads marks in texts.

    Args:
      path: the file.
      kind: whose tokenizer it must be, for the errors.
      vocab: the number of its tokens.
      source: a hub repository that has it, for the errors.

    Raises:
      UserError: the package tokenizers is not installed, or the file is unusable.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise _no_tokenizer() from error
    try:
        tokenizer = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the library raises bare Exceptions
        fix = f"download {kind}'s {_HUB_FILE} again, as that of {source}"
        raise UserError("unreadable tokenizer file", where=path, found=str(error), fix=fix) from error
    if tokenizer.get_vocab_size() != vocab:
        expected, found = f"{kind}'s {vocab} tokens", str(tokenizer.get_vocab_size())
        fix = f"use {source}:{_HUB_FILE}"
        raise UserError("another tokenizer", where=path, expected=expected, found=found, fix=fix)
    # In the reference, the way it spells its marks is ordinary text.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def hub_file(repository: str, *, otherwise: str = "") -> str:
    """Returns the path of a repository's `tokenizer.json`, downloaded if necessary.

    Args:
      repository: a hub id.
      otherwise: what else the user can do, after the fix of the error.

    Raises:
      UserError: a package is not installed, or the hub has no such file or is not reached.
    """
    try:
        import huggingface_hub
        import tokenizers  # noqa: F401  (checked before anything is downloaded)
    except ImportError as error:
        raise _no_tokenizer() from error
    try:
        return huggingface_hub.hf_hub_download(repository, _HUB_FILE)
    except Exception as error:  # its errors have no common base
        where, found = f"{repository}:{_HUB_FILE}", type(error).__name__
        fix = f"pass it by --tokenizer{otherwise}"
        raise UserError("cannot download the tokenizer", where=where, found=found, fix=fix) from error


def _no_tokenizer() -> UserError:
    return UserError(
        "no tokenizer installed",
        where="prompts",
        expected="tokenizers and huggingface_hub, or for CLIP's texts instant-clip-tokenizer",
        fix="pip install 'softbio-jax[text,hub]'",
    )
