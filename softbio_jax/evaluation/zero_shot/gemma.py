"""Texts to token ids as SigLIP 2's training has them: lower case, Gemma's vocabulary, one end mark.

The vocabulary is in the tokenizer.json of SigLIP 2's repositories on the hub; no ids are stored here.

Source: big_vision's preprocessing of SigLIP 2, `lower|tok(length=64, model="gemma", bos="no",
eos="sticky")`, and transformers 5.23 `models/siglip2/tokenization_siglip2.py`.
"""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from softbio_jax.evaluation.zero_shot.tokenizer import Encode, hub_file, open_file

END, PAD = 1, 0
HUB_REPOSITORY = "google/siglip2-base-patch16-224"  # all have the same file
FILE = "tokenizer.json"


def tokenize(
    texts: Sequence[str], *, context: int, vocab: int, file: str | pathlib.Path | None = None
) -> np.ndarray:
    """Returns the ids of each text with the end mark, padded to the context.

    A text that is too long keeps its first context - 1 ids and ends with the end mark.

    Args:
      texts: C texts.
      context: N >= 2, the text encoder's context length.
      vocab: the number of its tokens.
      file: Gemma's `tokenizer.json`, or the folder that it is in; None: SigLIP 2's on the hub.

    Returns:
      (C, N) int32.

    Raises:
      UserError: the package tokenizers is not installed, or there is no such file or one of another
        vocabulary.
    """
    encode = load_encoder(None if file is None else str(file), vocab)
    ids = np.full((len(texts), context), PAD, np.int32)
    for row, text in zip(ids, texts, strict=True):
        found = [*encode(text.lower())[: context - 1], END]
        row[: len(found)] = found
    return ids


@functools.cache
def load_encoder(file: str | None, vocab: int) -> Encode:
    """Returns a function from a text in lower case to its ids, without marks; see `tokenize`.

    Raises:
      UserError: see `tokenize`.
    """
    path = hub_file(HUB_REPOSITORY, otherwise=" or put it beside the checkpoint") if file is None else file
    if pathlib.Path(path).is_dir():
        path = str(pathlib.Path(path) / FILE)
    tokenizer = open_file(path, kind="Gemma", vocab=vocab, source=HUB_REPOSITORY)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
