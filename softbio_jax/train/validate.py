"""The validation loss."""

from collections.abc import Callable, Mapping, Sequence

from softbio_jax.data.sources import PreparedDataset
from softbio_jax.train import predict
from softbio_jax.train.session import Session


def validate(
    session: Session, sets: Sequence[PreparedDataset], *, between: Callable[[], None]
) -> dict[str, float]:
    """Returns each task's mean loss and accuracy over the rows of all sets, and their sum.

    Args:
      session: the run.
      sets: validation rows.
      between: called before every batch; it may raise to end the pass.

    Returns:
      val/{task}/loss, val/{task}/accuracy and val/loss, the unweighted sum of the losses.
    """
    outputs = [session.predict(dataset, between=between) for dataset in sets]
    scalars = predict.losses(predict.concatenate(outputs))
    loss = sum(value for name, value in scalars.items() if name.endswith("/loss"))
    return {"val/loss": loss} | {f"val/{name}": value for name, value in scalars.items()}


def summary(scalars: Mapping[str, float]) -> str:
    """Returns what `validate` does in a few words: the loss and each task's accuracy."""
    return "  ".join([f"loss {scalars['val/loss']:.4f}", *accuracies(scalars)])


def accuracies(scalars: Mapping[str, float]) -> list[str]:
    """Returns each task's accuracy as "age 61.3 %"."""
    return [
        f"{name.split('/')[1]} {100 * value:.1f} %"
        for name, value in scalars.items()
        if name.endswith("/accuracy")
    ]
