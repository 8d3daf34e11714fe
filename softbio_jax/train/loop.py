"""The training loop: start or resume, step, save, validate, evaluate."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import jax
from etils import epath

from softbio_jax import files
from softbio_jax.checkpoints.manager import CheckpointManager, barrier
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.evaluation import collect
from softbio_jax.evaluation.evaluate import evaluate
from softbio_jax.runs import data as data_lib
from softbio_jax.runs import directory
from softbio_jax.runs.build import Parts, describe
from softbio_jax.runs.data import RunData, audit_hashes, example_names, train_stream
from softbio_jax.runs.session import Session
from softbio_jax.runs.step import Metrics
from softbio_jax.train.early_stopping import SkippedUpdates, Watch, stall_told
from softbio_jax.train.metrics_log import MetricWriter, Recorder, due
from softbio_jax.train.preemption import Preempted, Preemption
from softbio_jax.train.probing.cached import CachedSession
from softbio_jax.train.probing.table import RowBatches
from softbio_jax.train.progress import Profile, Progress


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
    scalars = collect.losses(collect.concatenate(outputs))
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


class Training:
    """The parts of a run and the few things the loop does with them; a context that closes them.

    Args:
      run: what is computed.
      data: what is read.
      workdir: where everything is written.
      preemption: who notes a SIGTERM.
    """

    def __init__(self, run: Parts, data: RunData, workdir: epath.Path, preemption: Preemption):
        config, self._chief = run.config.train, jax.process_index() == 0
        self._run, self._data, self._workdir = run, data, workdir
        self._preemption, self._started = preemption, time.perf_counter()
        self._profile = Profile(config.profile_steps, workdir / "profile")
        if config.compile_cache:
            jax.config.update("jax_compilation_cache_dir", config.compile_cache)
        self._say(describe(run))
        cached = config.cache_features
        self.session = CachedSession(run) if cached else Session(run)
        self.manager = CheckpointManager(workdir, keep=config.keep, base=self.session.base, say=self._say)
        self._stream = RowBatches(run, data) if cached else train_stream(run, data)
        self.watch = Watch()
        self._audits = audit_hashes(data)
        self.first = self._resume()
        if self._chief:
            directory.write_start(run, data, workdir)
        self._progress = Progress(
            first=self.first, steps=config.steps, batch_size=config.batch_size, active=self._chief
        )
        self._recorder = Recorder(
            MetricWriter(workdir, resume_step=self.first, active=self._chief),
            self._progress,
            SkippedUpdates(
                workdir / "skipped.jsonl" if self._chief else None,
                most=config.max_skipped,
                examples=lambda step: example_names(run, data, self._stream.sampler, step),
                say=self._progress.say,
            ),
            config,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.close()
        self._stream.close()
        self._progress.close()
        self._recorder.close()
        self.manager.close()

    def compile(self) -> None:
        """Compiles the train step; computes first what a frozen tower gives, where that is kept."""
        if isinstance(self.session, CachedSession):
            self.session.cache(
                self._data,
                files.local(
                    self._run.config.train.cache_dir or self._workdir / "features",
                    what="the feature cache",
                    fix="set train.cache_dir",
                ),
                say=self._progress.say,
                between=lambda: self._leave_if_told(self.first),
            )
        begun = time.perf_counter()
        self._recorder.set_step_flops(self.session.compile())
        barrier("compiled")
        self._progress.say(
            f"compiled in {time.perf_counter() - begun:.1f} s; TensorBoard: "
            f"tensorboard --logdir {self._workdir / 'tensorboard'}"
        )
        self._leave_if_told(self.first)
        self._recorder.resume()

    def step(self, step: int) -> bool:
        """Does one optimizer step; returns whether the run was told to leave after it."""
        with stall_told(step, self._progress.say):
            batch = next(self._stream)
        with self._profile.step(step):
            begun = self.session.push(batch)
        self._preemption.unsaved = True
        try:
            self._record(step, begun)
        except UserError:  # too many updates skipped: the state is that before them
            with contextlib.suppress(UserError):  # the step in flight fails the same way
                self.save(step)
            raise
        return self._preemption.stops_after(step)

    def _record(self, last: int, metrics: Sequence[Metrics]) -> None:
        """Hands over the metrics of the steps up to `last`."""
        for step, found in enumerate(metrics, last + 1 - len(metrics)):
            self._recorder.take(step, found)

    def save(self, step: int) -> None:
        """Starts saving the state after a step, once all its metrics are written."""
        try:
            self._record(step, self.session.drain())
            self._recorder.flush()
        finally:
            host = {"stream": self._stream.get_state(), "watch": self.watch.to_json(), "audits": self._audits}
            self.manager.save(step, self.session.state, host, best_step=self.watch.best_step)
        # A save under way at a SIGTERM has the grace to finish in. One that may need longer is
        # waited for: the run would have to go back behind it, by up to two intervals.
        took = self.manager.last_seconds
        if took is None or took > self._preemption.grace:
            self.manager.wait()
        self._recorder.resume()

    def validate(self, step: int) -> bool:
        """Measures the validation loss after a saved step; returns whether to stop early.

        A run that is resumed from this step does it again, and so ends up the same.
        """
        config = self._run.config.train
        scalars = validate(self.session, self._data.val, between=lambda: self._leave_if_told(step))
        self._progress.say(f"validation at step {step}: {summary(scalars)}")
        self._progress.validated(step, scalars["val/loss"])
        self._recorder.write(step, scalars)
        self.watch.update(step, scalars["val/loss"])
        if self._chief:
            directory.write_best(self._workdir, self.watch.best_step)
        if config.patience and self.watch.since_best >= config.patience:
            self._progress.say(f"stopped: {self.watch.since_best} validations in a row without improvement")
            return True
        plateau = self._run.config.optimizer.schedule == "plateau"
        if plateau and self.watch.since_drop >= config.plateau_patience:
            state, factor = self.session.state, config.plateau_factor
            self.session.state = dataclasses.replace(state, rate_scale=state.rate_scale * factor)
            self.watch.since_drop = 0
            self._progress.say(f"validation stalls: learning rates x {factor}")
        self._recorder.resume()
        return False

    def leave(self, step: int) -> None:
        """Waits for the checkpoint of `step` and raises Preempted."""
        self.manager.wait()
        self._preemption.unsaved = False
        raise Preempted(step)

    def evaluate(self, step: int) -> dict[str, Any]:
        """Evaluates the last or the best checkpoint on the test sets."""
        self._progress.close()
        self.manager.wait()
        self._preemption.unsaved = False
        best = self.watch.best_step
        if self._run.config.train.evaluate == "best" and best not in (None, step):
            self.session.state = self.manager.restore(best, self.session.state).state
        if self._chief:
            directory.write_end(
                self._run,
                self._workdir,
                seconds=time.perf_counter() - self._started,
                images_per_second=self._progress.images_per_second,
            )
        return evaluate(
            self.session,
            self._data.test,
            self._workdir,
            val=self._data.val,
            between=lambda: self._leave_if_told(step),
        )

    def _resume(self) -> int:
        restored = self.manager.restore_newest(self.session.state)
        if restored is None:
            if self.manager.steps():
                self._say("no checkpoint was ever finished: training starts from step 0")
            return 0
        self._stream.set_state(restored.host["stream"])
        self.session.state = restored.state
        self.watch = Watch.from_json(restored.host["watch"])
        self._say(f"resumed from step {restored.step}")
        return restored.step

    def _leave_if_told(self, step: int) -> None:
        if self._preemption.noted():
            self.leave(step)

    def _say(self, text: str) -> None:
        if self._chief:
            print(text, flush=True)


def train_and_evaluate(
    run: Parts, data: RunData, workdir: epath.PathLike, *, preemption: Preemption | None = None
) -> dict[str, Any]:
    """Trains a run to its end, from its newest whole checkpoint if it has one, and evaluates it.

    Every validation follows a checkpoint of the same step, so whatever ends the process, what is
    resumed is a state right after a step.

    Args:
      run: the parts of the run.
      data: its data sets.
      workdir: where checkpoints, metrics and the evaluation go, local or gs://.
      preemption: who notes a SIGTERM; None: nobody does.

    Returns:
      The contents of eval/metrics.json.

    Raises:
      UserError: the workdir is another run's, the batch does not fit the devices, checkpoints are
        damaged or cannot be written, or updates were not finite too many times in a row.
      Preempted: stopped by SIGTERM, everything done so far saved.
    """
    config, workdir = run.config.train, files.directory(workdir)
    directory.check_workdir(run.config, workdir)
    data_lib.check(data, tasks=run.config.tasks, batch_size=config.batch_size)
    with Training(run, data, workdir, preemption or Preemption()) as training:
        if training.first < config.steps:
            training.compile()

        step = training.first
        # From the step that is there: its checkpoint comes before its validation, which a run that
        # is resumed in between does again.
        for step in range(training.first, config.steps + 1):
            validates = bool(data.val) and step > 0 and due(step, config.eval_every, config.steps)
            if step > training.first:
                told_to_leave = training.step(step)
                saves = validates or due(step, config.checkpoint_every, config.steps)
                if saves or told_to_leave:
                    training.save(step)
                if told_to_leave:
                    training.leave(step)
            if validates and training.validate(step):
                break
        return training.evaluate(step)
