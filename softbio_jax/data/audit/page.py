"""The audit as one self-contained HTML file: counts, and thumbnails of every pair."""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.prepare import storage
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.escaping import visible
from softbio_jax.tasks import TASKS

_MAX_PAIRS = 300
_SIDE = 96


def as_html(findings: Mapping[str, Any], datasets: Sequence[PreparedDataset]) -> str:
    """Returns the result of `findings.audit` as a page, with thumbnails from the audited splits."""
    by_name = {f"{dataset.name}/{dataset.split}": dataset for dataset in datasets}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: visible(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        findings=findings,
        tasks=TASKS,
        # The worst first: copies across splits, then contradicting labels.
        pairs=sorted(findings["duplicates"], key=lambda p: (not p["across"], not p["labels_differ"])),
        contradicting=[group for group in findings["groups"] if group["labels_differ"]],
        most=_MAX_PAIRS,
        thumbnail=lambda side: _thumbnail(by_name[side["split"]], side["example"]),
    )


def _thumbnail(dataset: PreparedDataset, example: int) -> str:
    """Returns an image as a JPEG in base64, black if it cannot be decoded."""
    try:
        image = decode.decode(dataset[example], size=_SIDE)
    except decode.UndecodableImage:
        image = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    return base64.b64encode(storage.encode(image, "jpeg", quality=80)).decode()
