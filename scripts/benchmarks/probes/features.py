"""How fast heads train on cached features, and what that saves against running the encoder.

Beside seconds stand those of processor time, summed over cores: other work on the machine moves
them little, and where both cores are in use they are up to twice the others.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from softbio_jax.data.prepare import prepare
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.runs import build
from softbio_jax.runs.build import Run
from softbio_jax.runs.data import RunData, open_all, train_batches
from softbio_jax.runs.session import Session
from softbio_jax.tasks import MISSING, TASKS
from softbio_jax.train.probing.cached import CachedSession
from softbio_jax.train.probing.features import FeatureExtractor, Features
from softbio_jax.train.probing.sweep import SweepSession
from softbio_jax.train.probing.table import RowBatches

THESIS_ROWS, WIDTH = 168_362, 1024  # images of an epoch, and PE-Core-L14-336's pooled feature
PROBE_IMAGES, PROBE_EPOCHS = 12_500, 20
BATCH = 256


def epoch(head: str, *, rows: int = THESIS_ROWS, epochs: int = 2) -> dict[str, Any]:
    """Measures epochs of training three heads, batch norm and dropout 0.5 included.

    Features are drawn numbers: no step's time depends on them.

    Args:
      head: "linear" or "deep".
      rows: features an epoch.
      epochs: how many are measured, after a first dispatch that is not.
    """
    run = _heads_alone(head, rows=rows, epochs=epochs + 1)
    session, data = CachedSession(run), _labelled(rows)
    session.hold([(data.train[0], _drawn(rows))])
    session.compile()
    batches = RowBatches(run.config, data)
    for _ in range(64):
        session.push(next(batches))
    session.drain()
    jax.block_until_ready(session.state)
    steps = -(-rows // BATCH)

    def once() -> None:
        for _ in range(steps):
            session.push(next(batches))
        session.drain()
        jax.block_until_ready(session.state)

    seconds, processor = zip(*(_seconds(once) for _ in range(epochs)), strict=True)
    return {"rows": rows, "seconds": seconds, "fastest": min(seconds), "processor_seconds": min(processor)}


def sweep(*, pairs: int = 50, rows: int, epochs: int, batch_norm: bool, steps: int) -> dict:
    """Measures steps of a sweep of linear heads, and extrapolates to all its epochs.

    Args:
      pairs: rates times decays.
      rows: features an epoch.
      epochs: of the sweep.
      batch_norm: whether heads have one, whose output each pair has for itself.
      steps: maximum number of measured steps.
    """
    run = _heads_alone("linear", rows=rows, epochs=epochs, batch_norm=batch_norm)
    rates, decays = np.geomspace(1e-4, 1e-1, pairs), np.full(pairs, 1e-2)
    session, data = SweepSession(run, rates=rates.tolist(), decays=decays.tolist()), _labelled(rows)
    session.hold([(data.train[0], _drawn(rows))])
    begun = time.perf_counter()
    session.compile()
    compiling, batches = time.perf_counter() - begun, RowBatches(run.config, data)
    for _ in range(session.length):
        session.push(next(batches))
    jax.block_until_ready(session.state)
    whole = epochs * -(-rows // BATCH)
    steps = min(steps, whole)

    def some() -> None:
        for _ in range(steps):
            session.push(next(batches))
        session.drain()
        jax.block_until_ready(session.state)

    measured, processor = _seconds(some)
    return {
        "pairs": pairs,
        "rows": rows,
        "epochs": epochs,
        "batch_norm": batch_norm,
        "steps_measured": steps,
        "seconds_measured": measured,
        "compile_seconds": compiling,
        "steps_whole": whole,
        "seconds_whole": measured / steps * whole,
        "processor_seconds_whole": processor / steps * whole,
        "extrapolated": steps < whole,
    }


def probe(variant: str, folder: pathlib.Path, *, images: int, rounds: int, batch: int) -> dict:
    """Measures the encoder in a training step against the encoder in a feature pass, in turns.

    Both decode and resize the same JPEGs. The training step augments, the pass does not.

    Args:
      variant: of the encoder; its weights are random.
      folder: for data and features.
      images: drawn faces, of which each round takes its part.
      rounds: how many times each is measured.
      batch: images a step.
    """
    config = _config(variant, "linear", root=str(folder), batch=batch, steps=10_000)
    part = images // rounds // batch * batch
    run = build.build(config)
    if not (folder / "synthetic_fairface").exists():
        prepare.prepare(
            "synthetic",
            source="synthetic_fairface",
            count=images,
            test_count=1,
            out=folder / "synthetic_fairface",
            size=run.image_size,
        )
    data = open_all(run.config.data)
    session = Session(run)
    session.compile()
    extract = FeatureExtractor(
        run, session._frozen, base=session.base, mesh=session.mesh, root=folder / "features"
    )
    stream = train_batches(run.config, data, image_size=run.image_size)

    def train() -> None:
        for _ in range(part // batch):
            session.train(next(stream))
        jax.block_until_ready(session.state)

    def cache(start: int) -> Callable[[], Any]:
        dataset = data.train[0].take(np.arange(start, start + part))
        return lambda: extract(dataset, views=1, name=f"{variant}, round at {start}")

    _seconds(lambda: session.train(next(stream)))
    # In another order than any turn has them, or that turn would read what this one kept.
    extract(data.train[0].take(np.arange(batch)[::-1]), views=1, name="warm-up")
    turns: dict[str, list[tuple[float, float]]] = {"train": [], "cache": []}
    for turn in range(rounds):
        turns["train"].append(_seconds(train))
        turns["cache"].append(_seconds(cache(turn * part)))
    stream.close()
    found: dict[str, Any] = {"variant": variant, "images_a_round": part, "rounds": rounds, "batch": batch}
    for name, pairs in turns.items():
        wall, processor = ([value / part for value in values] for values in zip(*pairs, strict=True))
        found |= {
            f"{name}_seconds_an_image": statistics.median(wall),
            f"{name}_processor_seconds_an_image": statistics.median(processor),
            f"{name}_turns": wall,
        }
    return found


def projected(tower: dict[str, Any], heads: dict[str, Any]) -> dict[str, Any]:
    """Returns what LP of 20 epochs on 12,500 images takes both ways, by the image.

    Args:
      tower: what `probe` found.
      heads: what `epoch` found.
    """
    found: dict[str, Any] = {"images": PROBE_IMAGES, "epochs": PROBE_EPOCHS}
    for kind, of_heads in (("", "fastest"), ("processor_", "processor_seconds")):
        with_tower = PROBE_EPOCHS * PROBE_IMAGES * tower[f"train_{kind}seconds_an_image"]
        once = PROBE_IMAGES * tower[f"cache_{kind}seconds_an_image"]
        on_features = PROBE_EPOCHS * PROBE_IMAGES / heads["rows"] * heads[of_heads]
        found |= {
            f"{kind}seconds_tower_every_epoch": with_tower,
            f"{kind}seconds_features_once": once,
            f"{kind}seconds_epochs_on_features": on_features,
            f"{kind}ratio": (once + on_features) / with_tower,
        }
    return found


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Returns how long work takes, and its processor time."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


def _config(variant: str, head: str, *, root: str, batch: int, steps: int) -> dict[str, Any]:
    return {
        "seed": 0,
        "tasks": ("age", "gender", "emotion"),
        "model": {"variant": variant, "head": {"kind": head, "batch_norm": True, "dropout": 0.5}},
        "method": {"name": "lp"},
        "data": {"root": root, "train": ("synthetic_fairface/train",), "val_fraction": 0.0},
        "optimizer": {"rates": {"heads": 1e-3, "log_var": 1e-3}},
        "train": {"steps": steps, "batch_size": batch, "eval_batch_size": batch, "log_every": 50},
    }


def _heads_alone(head: str, *, rows: int, epochs: int, batch_norm: bool = True) -> Run:
    """Returns a run with PE-Core-L14-336's feature on an encoder of one block, which never runs."""
    config = _config("PE-Core-L14-336", head, root="", batch=BATCH, steps=epochs * rows)
    config["model"]["head"]["batch_norm"] = batch_norm
    run = build.build(config)
    model = run.model.clone(config=dataclasses.replace(run.model.config, layers=1))
    return dataclasses.replace(run, model=model)


def _labelled(rows: int) -> RunData:
    """Returns rows with labels in the thesis' proportions, and no images."""
    draw = np.random.default_rng(0)
    labels = {}
    for task, known in (("age", 0.81), ("gender", 1.0), ("emotion", 0.055)):
        values = draw.integers(0, TASKS[task].num_classes, rows).astype(np.int32)
        labels[task] = np.where(draw.random(rows) < known, values, np.int32(MISSING))
    dataset = PreparedDataset(
        directory="",
        name="drawn",
        split="train",
        labels=labels,
        columns={},
        fingerprint="drawn",
        records=np.arange(rows),
    )
    return RunData(train=[dataset], val=[], test=[])


def _drawn(rows: int) -> Features:
    values = np.random.default_rng(1).standard_normal((1, rows, WIDTH), np.float32)
    return Features(values=values, decoded=np.ones(rows, bool))
