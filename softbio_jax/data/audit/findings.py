"""The audit of prepared splits, as JSON values."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data import index as index_lib
from softbio_jax.data.audit import duplicates, expected, thumbnails
from softbio_jax.data.audit import groups as groups_lib
from softbio_jax.data.audit.duplicates import Pair
from softbio_jax.data.audit.thumbnails import Scan
from softbio_jax.data.partial import targets
from softbio_jax.data.prepare.rows import IDENTITY_COLUMNS
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.tasks import MISSING, TASKS

_FLAT_BELOW = 4.0  # grey levels: below this spread an image has nearly one colour


def audit(
    datasets: Sequence[PreparedDataset],
    *,
    sets: Sequence[str],
    digests: Sequence[np.ndarray],
    console: Console = QUIET,
) -> dict[str, Any]:
    """Finds copies across splits and sets, persons on both sides, broken images and missing rows.

    Args:
      datasets: the prepared splits.
      sets: the set that each of them is a copy of, as `expected.set_of` names it.
      digests: (N, 32) uint8 per split, the SHA-256 of the images.
      console: shows the progress.

    Returns:
      The findings as JSON values: `duplicates` are pairs, `groups` the images that pairs connect, with
      the tasks and classes in which their labels differ. `verdict` is recorded in checkpoints: the
      fingerprints, the counts of problems, and `sha256`, the hash of all that.
    """
    scans = [thumbnails.scan(dataset, console=console) for dataset in datasets]
    names = [f"{dataset.name}/{dataset.split}" for dataset in datasets]
    pairs, groups = _copies(datasets, names, scans, digests, console)
    splits = {
        name: _split_findings(dataset, copy_of, found)
        for name, dataset, copy_of, found in zip(names, datasets, sets, scans, strict=True)
    }
    shared = _shared_identities(datasets, names)
    verdict = {
        "fingerprints": {n: d.fingerprint for n, d in zip(names, datasets, strict=True)},
        "duplicates_within": sum(not pair["across"] for pair in pairs),
        "duplicates_across": sum(pair["across"] for pair in pairs),
        "contradicting_labels": sum(bool(group["labels_differ"]) for group in groups),
        "shared_identities": sum(entry["count"] for entry in shared),
        "undecodable": sum(len(part["undecodable"]) for part in splits.values()),
        "nearly_constant": sum(len(part["nearly_constant"]) for part in splits.values()),
    }
    verdict["sha256"] = hashlib.sha256(json.dumps(verdict, sort_keys=True).encode()).hexdigest()
    return {
        "verdict": verdict,
        "splits": splits,
        "duplicates": pairs,
        "groups": groups,
        "shared_identities": shared,
    }


def _copies(
    datasets: Sequence[PreparedDataset],
    names: Sequence[str],
    scans: Sequence[Scan],
    digests: Sequence[np.ndarray],
    console: Console,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the pairs and the groups of copies."""
    grey = np.concatenate([found.thumbnails for found in scans])
    owner = np.repeat(np.arange(len(datasets)), [len(dataset) for dataset in datasets])
    starts = np.searchsorted(owner, np.arange(len(datasets)))
    usable = thumbnails.spread(grey) >= _FLAT_BELOW
    partial = [targets.in_columns(targets.rows_of(dataset)) for dataset in datasets]

    def side(number: int) -> dict[str, Any]:
        which = int(owner[number])
        dataset, example = datasets[which], int(number - starts[which])
        labels = {task: int(labels[example]) for task, labels in dataset.labels.items()}
        several = {
            task: [TASKS[task].classes[label] for label in np.flatnonzero(found.classes_of(example))]
            for task, found in partial[which].items()
            if labels.get(task, MISSING) == MISSING
        }
        return {
            "split": names[which],
            "example": example,
            "id": str(dataset.columns["id"][example]),
            "labels": {t: TASKS[t].classes[label] for t, label in labels.items() if label != MISSING},
            "possible": {task: names for task, names in several.items() if names},
        }

    connected = groups_lib.Groups(len(grey))
    pairs = []
    for pair in duplicates.find(grey, np.concatenate(digests), usable, console=console):
        connected.join(pair.first, pair.second)
        pairs.append(_pair(pair, side(pair.first), side(pair.second)))
    groups = []
    for members in connected.members():
        images = [side(number) for number in members]
        across = len({image["split"] for image in images}) > 1
        differ = groups_lib.contradictions(images)
        groups.append({"size": len(images), "across": across, "labels_differ": differ, "images": images})
    return pairs, groups


def _pair(pair: Pair, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": pair.kind,
        "similarity": round(pair.similarity, 4),
        "mirrored": pair.mirrored,
        "rotation": round(pair.rotation, 1),
        "overlap": round(pair.overlap, 3),
        "across": first["split"] != second["split"],
        "labels_differ": bool(groups_lib.contradictions([first, second])),
        "first": first,
        "second": second,
    }


def _split_findings(dataset: PreparedDataset, copy_of: str, found: Scan) -> dict[str, Any]:
    ids = dataset.columns["id"]
    broken = np.zeros(len(dataset), bool)
    broken[list(found.problems)] = True
    flat = np.flatnonzero((thumbnails.spread(found.thumbnails) < _FLAT_BELOW) & ~broken)
    sizes, counts = np.unique(found.sizes[~broken], axis=0, return_counts=True)
    classes = {
        task: np.bincount(labels[labels != MISSING], minlength=TASKS[task].num_classes).tolist()
        for task, labels in dataset.labels.items()
    }
    return {
        "copy_of": copy_of,
        "examples": len(dataset),
        "undecodable": [{"id": str(ids[i]), "reason": why} for i, why in sorted(found.problems.items())],
        "nearly_constant": [str(ids[example]) for example in flat],
        "sizes": [
            {"height": int(sizes[i, 0]), "width": int(sizes[i, 1]), "count": int(counts[i])}
            for i in np.argsort(-counts)[:50]
        ],
        "class_counts": classes,
        "labels": {t: part.counts() for t, part in targets.in_columns(targets.rows_of(dataset)).items()},
        "expected": _compare(copy_of, dataset, classes),
    }


def _compare(copy_of: str, dataset: PreparedDataset, classes: dict[str, list[int]]) -> dict[str, Any] | None:
    """Compares the counts of a split with those of a complete copy; None where these are unknown."""
    published = expected.CLASS_COUNTS.get((copy_of, dataset.split))
    if published is None:
        return None
    here = {"rows": [len(dataset)], **classes}
    differ = {
        key: [a - b for a, b in zip(here[key], counts, strict=True)]
        for key, counts in published.items()
        if here[key] != list(counts)
    }
    exchanged = expected.exchanged(copy_of, dataset.split, rows=len(dataset), counts=classes)
    return {"complete": not differ, "difference": differ, "exchanged": exchanged}


def _shared_identities(datasets: Sequence[PreparedDataset], names: Sequence[str]) -> list[dict[str, Any]]:
    shared = []
    for (name_a, a), (name_b, b) in itertools.combinations(zip(names, datasets, strict=True), 2):
        if a.directory != b.directory:  # only splits of one set number their persons alike
            continue
        for column in IDENTITY_COLUMNS:
            if column in a.columns and column in b.columns:
                both = np.intersect1d(a.columns[column], b.columns[column])
                both = both[both != ""]
                if len(both):
                    found = {"column": column, "count": len(both), "examples": both[:20].tolist()}
                    shared.append({"splits": [name_a, name_b]} | found)
    return shared


def digests_of(directory: str, split: str) -> np.ndarray:
    """Returns the image digests (N, 32) uint8 of a prepared split."""
    return index_lib.read(pathlib.Path(directory), split).digests
