"""The audit as one HTML file that needs nothing else: counts, and thumbnails of every pair."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.prepare import storage
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.tasks import TASKS

_MOST_PAIRS = 300
_SIDE = 96
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.15rem .7rem;text-align:right}
th{border-bottom:1px solid #999;font-weight:600}td:first-child,th:first-child{text-align:left}
.pair{display:inline-block;margin:.4rem;padding:.5rem;border:1px solid #ccc;border-radius:6px;
width:17rem;vertical-align:top;font-size:12px;overflow-wrap:anywhere}.bad{border-color:#c33}
.pair img{width:96px;height:96px;margin-right:4px}.bad b{color:#c33}
"""


def as_html(findings: Mapping[str, Any], datasets: Sequence[PreparedDataset]) -> str:
    """Lays the findings out as a page.

    Args:
      findings: what `findings.audit` returned.
      datasets: the audited splits, for the thumbnails.
    """
    by_name = {f"{dataset.name}/{dataset.split}": dataset for dataset in datasets}
    verdict = findings["verdict"]
    rows = [[key.replace("_", " "), f"{verdict[key]:,}"] for key in _counted(verdict)]
    parts = [
        "<h1>Data audit</h1>",
        f"<p>Verdict <code>{verdict['sha256']}</code></p>",
        _table(["problem", "found"], rows),
        *(_split(name, part) for name, part in findings["splits"].items()),
        "<h2>Persons or photographs in two splits</h2>" if findings["shared_identities"] else "",
        *(
            f"<p>{entry['count']:,} by {html.escape(entry['column'])} in "
            f"{html.escape(' and '.join(entry['splits']))}</p>"
            for entry in findings["shared_identities"]
        ),
        _pairs(findings["duplicates"], by_name),
    ]
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Data audit</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _counted(verdict: Mapping[str, Any]) -> list[str]:
    return [key for key, value in verdict.items() if isinstance(value, int)]


def _split(name: str, part: Mapping[str, Any]) -> str:
    blocks = [f"<h2>{html.escape(name)}</h2><p>{part['examples']:,} examples"]
    if part["expected"] is not None:
        whole = "a complete copy" if part["expected"]["complete"] else "not a complete copy"
        blocks.append(f", {whole} of {html.escape(part['copy_of'])}")
    blocks.append("</p>")
    for task, really in (part["expected"] or {"exchanged": {}})["exchanged"].items():
        blocks.append(f"<p><b>{task} classes in another order: {html.escape(really)}</b></p>")
    for task, counts in part["class_counts"].items():
        total = max(sum(counts), 1)
        differ = (part["expected"] or {"difference": {}})["difference"].get(task)
        header = [task, "rows", "%"] + (["against a complete copy"] if differ else [])
        rows = [
            [cls, f"{count:,}", f"{100 * count / total:.2f}"] + ([f"{differ[c]:+,}"] if differ else [])
            for c, (cls, count) in enumerate(zip(TASKS[task].classes, counts, strict=True))
        ]
        blocks.append(_table(header, rows))
    sizes = [[f"{s['width']} x {s['height']}", f"{s['count']:,}"] for s in part["sizes"][:10]]
    blocks.append(_table(["width x height", "pictures"], sizes))
    for broken in part["undecodable"][:50]:
        blocks.append(f"<p>{html.escape(broken['id'])}: {html.escape(broken['reason'])}</p>")
    for flat in part["nearly_constant"][:50]:
        blocks.append(f"<p>{html.escape(flat)}: nearly one colour</p>")
    return "".join(blocks)


def _pairs(pairs: Sequence[Mapping[str, Any]], by_name: Mapping[str, PreparedDataset]) -> str:
    if not pairs:
        return "<h2>No duplicates</h2>"
    # The worst first: copies across splits, then contradicting labels.
    ordered = sorted(pairs, key=lambda p: (not p["across"], not p["labels_differ"]))
    shown = "".join(_pair(pair, by_name) for pair in ordered[:_MOST_PAIRS])
    rest = f"<p>The first {_MOST_PAIRS}.</p>" if len(pairs) > _MOST_PAIRS else ""
    return f"<h2>{len(pairs):,} pairs of duplicates</h2>{rest}{shown}"


def _pair(pair: Mapping[str, Any], by_name: Mapping[str, PreparedDataset]) -> str:
    sides = (pair["first"], pair["second"])
    images = "".join(_image(by_name[side["split"]], side["example"]) for side in sides)
    texts = "<br>".join(
        html.escape(f"{s['split']}: {s['id']} ({', '.join(s['labels'].values())})") for s in sides
    )
    marks = [pair["kind"]]
    marks += ["across splits"] if pair["across"] else []
    marks += ["labels differ"] if pair["labels_differ"] else []
    bad = " bad" if pair["across"] or pair["labels_differ"] else ""
    return (
        f"<div class='pair{bad}'>{images}<br><b>{', '.join(marks)}</b> "
        f"{pair['similarity']:.3f}<br>{texts}</div>"
    )


def _image(dataset: PreparedDataset, example: int) -> str:
    try:
        image = decode.decode(dataset[example], size=_SIDE)
    except decode.UndecodableImage:
        image = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    encoded = base64.b64encode(storage.encode(image, "jpeg", quality=80)).decode()
    return f"<img alt='' src='data:image/jpeg;base64,{encoded}'>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
