"""Made-up predictions for tests, skilled enough that the metrics differ from chance; a small tokenizer."""

import json
import pathlib
import string
from collections.abc import Sequence

import numpy as np

from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS


def random_predictions(
    name: str,
    *,
    tasks: Sequence[str] = ("age", "gender"),
    n: int = 60,
    seed: int = 0,
    skill: float = 2.0,
    synthetic_labels: Sequence[str] = (),
    missing: float = 0.05,
) -> Predictions:
    """Returns n examples whose logits are noise plus `skill` at the true class."""
    labels_rng, noise_rng = np.random.default_rng(len(name)), np.random.default_rng(seed)
    labels, probabilities = {}, {}
    for task in tasks:
        size = TASKS[task].num_classes
        true = labels_rng.integers(0, size, n)
        logits = noise_rng.normal(size=(n, size))
        logits[np.arange(n), true] += skill
        values = np.exp(logits)
        probabilities[task] = values / values.sum(axis=1, keepdims=True)
        labels[task] = np.where(labels_rng.random(n) < missing, MISSING, true)
    return Predictions(
        name=name,
        ids=np.array([f"{name}/{i:05d}.jpg" for i in range(n)]),
        labels=labels,
        probabilities=probabilities,
        audit={"race": labels_rng.choice(["Black", "Indian", "White"], n)},
        synthetic_labels=tuple(synthetic_labels),
    )


def hand_made(name: str, task: str, labels: Sequence[int], probabilities: Sequence) -> Predictions:
    """Returns predictions of one task from written-out labels and probability rows."""
    return Predictions(
        name=name,
        ids=np.array([str(i) for i in range(len(labels))]),
        labels={task: np.array(labels, np.int32)},
        probabilities={task: np.array(probabilities, np.float32)},
    )


def gemma_file(folder: pathlib.Path) -> dict[str, int]:
    """Writes a tokenizer.json of the form of Gemma's, of 320 tokens, and returns its vocabulary."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", *string.ascii_letters[:40], "at", "\u2581at"]
    tokens += [f"filler{i}" for i in range(320 - len(tokens))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    begin = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
        "added_tokens": [{"id": i, "content": tokens[i]} | special for i in range(5)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": begin,
            "pair": begin,
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [["a", "t"], ["\u2581", "at"]],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return vocabulary
