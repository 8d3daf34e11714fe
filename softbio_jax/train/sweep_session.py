"""One cached run for many pairs of rate and decay at once: the step mapped over them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax import parallel
from softbio_jax.adapters.methods import FROZEN
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.losses.masked import masked_mean
from softbio_jax.params.paths import Tree
from softbio_jax.tasks import MISSING
from softbio_jax.train import build, feature_table, optimizer
from softbio_jax.train.build import Parts
from softbio_jax.train.cached import CachedSession
from softbio_jax.train.features import Features
from softbio_jax.train.state import TrainState
from softbio_jax.train.step import Batch, Metrics, TrainStep, task_losses

# Every leaf of the state has an axis of pairs in front, but for the step: it seeds dropout, whose
# masks are then drawn once for all pairs.
_EACH: Any = 0
_AXES = TrainState(
    step=cast(Any, None), trainable=_EACH, batch_stats=_EACH, opt_state=_EACH, rate_scale=_EACH,
    skipped=_EACH,
)  # fmt: skip
Sums = dict[str, dict[str, jax.Array]]  # {task: {loss, hits, count: (R,)}}


class SweepSession(CachedSession):
    """A cached session whose state is that of R runs, alike but for rate and decay.

    All start from the same weights and see the same batches, views and dropout masks, which are
    those of a run on its own.

    Args:
      run: the parts of the run; its own rate of the heads and its decay are not used.
      rates: (R,) peak rates of the heads.
      decays: (R,) weight decays.
      devices: which devices; None: all of them.
    """

    def __init__(
        self,
        run: Parts,
        *,
        rates: Sequence[float],
        decays: Sequence[float],
        devices: Sequence[jax.Device] | None = None,
    ):
        super().__init__(run, devices=devices)
        self._rates, self._decays = np.asarray(rates, np.float32), np.asarray(decays, np.float32)
        one, pairs = self.state, len(self._rates)
        stacked = jax.tree.map(
            lambda leaf: np.broadcast_to(np.asarray(leaf), (pairs, *leaf.shape)), one
        )
        step = np.asarray(one.step)
        self.state = parallel.replicate(dataclasses.replace(stacked, step=step), self.mesh)
        self._measure: Any = jax.jit(self._sums, out_shardings=parallel.replicated(self.mesh))
        self._answers: list[dict[str, jax.Array]] = []

    def hold(
        self,
        train: Sequence[tuple[PreparedDataset, Features]],
        val: Sequence[tuple[PreparedDataset, Features]] = (),
    ) -> None:
        """See `CachedSession.hold`."""
        super().hold(train, val)
        size = self.run.config.train.eval_batch_size
        for dataset, _ in val:
            _, labels = self.held[dataset.fingerprint]
            blocks = {
                f"labels/{task}": feature_table.blocks(column, size, fill=MISSING)
                for task, column in labels.items()
            }
            self._answers.append(parallel.replicate(blocks, self.mesh))

    def validate(self) -> dict[str, np.ndarray]:
        """Returns val/{task}/loss, val/{task}/accuracy and val/loss of every pair, (R,) each, over
        all validation rows, as `validate.validate` does of one run."""
        totals: dict[str, dict[str, Any]] = {}
        for (values, _), answers in zip(self.held.values(), self._answers, strict=True):
            with jax.default_matmul_precision(self.run.config.compute.matmul_precision):
                sums = jax.device_get(self._measure(self.state, self._proj, values, answers))
            for task, found in sums.items():
                before = totals.setdefault(task, dict.fromkeys(found, 0.0))
                totals[task] = {name: before[name] + np.float64(found[name]) for name in found}
        scalars, known = {}, {t: sums for t, sums in totals.items() if (sums["count"] > 0).all()}
        for task, sums in known.items():
            scalars[f"val/{task}/loss"] = sums["loss"] / sums["count"]
            scalars[f"val/{task}/accuracy"] = sums["hits"] / sums["count"]
        loss = np.sum([scalars[f"val/{task}/loss"] for task in known], axis=0)
        return {"val/loss": loss} | scalars

    def lower_rates(self, which: np.ndarray, factor: float) -> None:
        """Multiplies the rates of the pairs `which` (R,) bool by a factor."""
        scale = self.state.rate_scale * jnp.where(which, jnp.float32(factor), jnp.float32(1))
        scale = jax.device_put(scale, parallel.replicated(self.mesh))
        self.state = dataclasses.replace(self.state, rate_scale=scale)

    def _make_step(self) -> TrainStep:
        config = self.run.config
        trainable = {path: group for path, group in self.run.groups.items() if group != FROZEN}

        def one(
            state: TrainState, rate: jax.Array, decay: jax.Array, frozen: Tree, batch: Batch,
            key: jax.Array,
        ) -> tuple[TrainState, Metrics]:  # fmt: skip
            settings = dataclasses.replace(
                config.optimizer,
                rates=dict(config.optimizer.rates) | {"heads": cast(float, rate)},
                weight_decay=cast(float, decay),
            )
            update = optimizer.make(settings, trainable, steps=config.train.steps)
            return build.train_step(self.run, optimizer=update)(state, frozen, batch, key)

        mapped = jax.vmap(one, in_axes=(_AXES, 0, 0, None, None, None), out_axes=(_AXES, 0))

        def step(
            state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
        ) -> tuple[TrainState, Metrics]:
            done: tuple[TrainState, Metrics] = mapped(
                state, jnp.asarray(self._rates), jnp.asarray(self._decays), frozen, batch, key
            )
            return done

        return step

    def _sums(
        self, state: TrainState, proj: Tree, values: jax.Array, answers: dict[str, jax.Array]
    ) -> Sums:
        """Sums losses and hits over blocks of features (M, b, D)."""
        tasks = self.run.config.tasks

        def one(state: TrainState, block: jax.Array, labels: dict[str, jax.Array]) -> Sums:
            variables = {"params": state.trainable | proj, "batch_stats": state.batch_stats}
            features = dict.fromkeys(tasks, block)
            logits = cast(
                dict[str, jax.Array],
                self.run.model.apply(variables, features, method="classify"),
            )
            masks = {f"mask/{task}": labels[f"labels/{task}"] != MISSING for task in tasks}
            losses, sums = task_losses(logits, labels | masks, tasks), {}
            for task in tasks:
                right = logits[task].argmax(-1) == labels[f"labels/{task}"]
                hits = masked_mean(right.astype(jnp.float32), masks[f"mask/{task}"])
                sums[task] = {
                    "loss": losses[task].total, "hits": hits.total, "count": hits.count
                }  # fmt: skip
            return sums

        mapped = jax.vmap(one, in_axes=(_AXES, None, None))
        parts = jax.lax.map(lambda block: mapped(state, *block), (values, answers))
        summed: Sums = jax.tree.map(lambda part: part.sum(axis=0), parts)
        return summed
