"""Saving and restoring a run's state: the only user of Orbax."""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_policy

from softbio_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """What a checkpoint held."""

    step: int
    state: Any  # the pytree given to save
    host: dict[str, Any]  # the JSON given to save


class CheckpointManager:
    """Keeps the newest `keep` checkpoints of a run and the best one by validation loss."""

    def __init__(self, workdir: pathlib.Path, *, keep: int, read_only: bool = False):
        self._directory = workdir / "checkpoints"
        if not read_only:
            self._directory.mkdir(parents=True, exist_ok=True)
        elif not self._directory.is_dir():
            raise UserError("no checkpoints", where=str(self._directory), expected="a trained run",
                            found="no such folder", fix="run scripts/train.py first")  # fmt: skip
        best = keep_policy.BestN(
            get_metric_fn=lambda metrics: -metrics["val_loss"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._manager = ocp.CheckpointManager(
            self._directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep_policy.AnyPreservationPolicy(
                    [keep_policy.LatestN(keep), best]
                ),
                # Only for what `best_step` reports; the policy above decides what is kept.
                best_fn=lambda metrics: metrics["val_loss"],
                best_mode="min",
                enable_async_checkpointing=not read_only,
                read_only=read_only,
            ),
        )

    def save(self, step: int, state: Any, host: dict[str, Any], *, val_loss: float | None) -> None:
        """Starts saving; the arrays are copied before this returns, so state may be donated."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
            ),
            # Orbax warns of a checkpoint without a metric; an unmeasured one is never the best.
            metrics={"val_loss": float("inf") if val_loss is None else val_loss},
        )

    def latest_step(self) -> int | None:
        """Returns the newest whole checkpoint's step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the lowest validation loss, the newest where none was measured."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def restore(self, step: int, abstract_state: Any) -> Restored:
        """Returns the checkpoint of `step`, laid out like abstract_state (shapes and shardings).

        Raises:
          UserError: the checkpoint is of another model or method, or cannot be read.
        """
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                "checkpoint does not fit this run", where=f"{self._directory}/{step}",
                expected="the state of this variant, method and task list",
                found=str(error).strip().splitlines()[0][:200],
                fix="use the config it was trained with, or another workdir",
            ) from error  # fmt: skip
        _check_shapes(abstract_state, restored["state"], f"{self._directory}/{step}")
        return Restored(step=step, state=restored["state"], host=restored["host"])

    def close(self) -> None:
        """Waits for a save under way and lets go of the directory."""
        self._manager.wait_until_finished()
        self._manager.close()


def _check_shapes(expected: Any, found: Any, where: str) -> None:
    def check(path: Any, a: Any, b: Any) -> None:
        if a.shape != b.shape:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError("checkpoint does not fit this run", where=f"{where}: {name}",
                            expected=f"shape {a.shape}", found=f"{b.shape}",
                            fix="use the config it was trained with")  # fmt: skip

    jax.tree_util.tree_map_with_path(check, expected, found)
