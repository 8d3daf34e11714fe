"""The test sets through a trained run, and the evaluation of what comes out."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from softbio_jax.checkpoints import files
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.evaluation import evaluate as evaluation
from softbio_jax.evaluation import tables
from softbio_jax.train import predict, record, speed
from softbio_jax.train.data import open_all
from softbio_jax.train.restore import restore_run
from softbio_jax.train.session import Session


def evaluate(
    session: Session,
    sets: Sequence[PreparedDataset],
    workdir: epath.PathLike,
    *,
    val: Sequence[PreparedDataset] = (),
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes eval/metrics.json, predictions and confusion matrices, and prints the table.

    Args:
      session: the run.
      sets: the test sets.
      workdir: where eval/ is written, local or gs://.
      val: the validation rows, on which each task's temperature is fitted.
      between: called before every batch; it may raise to end the evaluation.

    Returns:
      The contents of metrics.json; empty without test sets.
    """
    outputs = [
        session.predict(
            dataset, feature_rows=evaluation.feature_rows(len(dataset)), between=between
        )
        for dataset in sets
    ]
    results = [predict.predictions(out, item) for out, item in zip(outputs, sets, strict=True)]
    held = [session.predict(dataset, between=between) for dataset in val] if results else []
    if not results or jax.process_index() != 0:
        return {}
    run = session.run
    trained, total = run.trained_and_total()
    with files.staged(workdir, name=evaluation.DIRECTORY, last="metrics.json") as folder:
        summary = evaluation.write(
            folder,
            results,
            model={
                "variant": run.model.config.name,
                "method": run.method.name,
                "trainable_params": trained,
                "total_params": total,
            },
            validation=predict.validation_predictions(held, val) if held else None,
            features=predict.kept_features(outputs, sets),
        )
    print(tables.text(summary), flush=True)
    return summary


def evaluate_run(
    workdir: epath.PathLike,
    *,
    out: epath.PathLike,
    data_root: str | None = None,
    timed: bool = False,
) -> dict[str, Any]:
    """Evaluates a run directory on its test sets and writes out/eval.

    Args:
      workdir: the run.
      out: where eval/ is written.
      data_root: where the prepared sets are, if not where the run found them.
      timed: also measures how fast it predicts and adds `inference` to the run's run.json.

    Returns:
      The contents of metrics.json.
    """
    session = restore_run(workdir, data_root=data_root)
    data = open_all(session.run.config.data)
    summary = evaluate(session, data.test, out, val=data.val)
    if timed:
        found = speed.measure(session)
        if jax.process_index() == 0:
            record.update(workdir, {"inference": found})
            print(speed.text(found), flush=True)
    return summary
