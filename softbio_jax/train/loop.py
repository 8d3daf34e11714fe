"""The training loop: start or resume, step, save, validate, evaluate."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

import jax
from etils import epath

from softbio_jax import coverage, files
from softbio_jax.checkpoints.arrays import barrier
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.evaluation.evaluate import evaluate
from softbio_jax.runs import data as data_lib
from softbio_jax.runs import directory
from softbio_jax.runs.build import Run, describe
from softbio_jax.runs.data import RunData
from softbio_jax.runs.session import CompiledStep, Session
from softbio_jax.runs.state import as_saved
from softbio_jax.runs.step import Metrics
from softbio_jax.train import trackers, warm_start
from softbio_jax.train.metrics_log import MetricsLog, MetricWriter, due, tensorboard_command
from softbio_jax.train.preemption import Preempted, Preemption
from softbio_jax.train.probing.cached import session_of
from softbio_jax.train.progress import Profile, Progress, SkippedUpdates, closing, later, stall_warning
from softbio_jax.train.validation import ValidationHistory, summary, validate


def train_and_evaluate(
    run: Run,
    data: RunData,
    workdir: epath.PathLike,
    *,
    preemption: Preemption | None = None,
    compiled: CompiledStep | None = None,
    init_from: str = "",
    writers: Sequence[trackers.ScalarWriter] = (),
) -> dict[str, Any]:
    """Trains a run to its end, from its newest intact checkpoint if it has one, and evaluates it.

    Every validation follows a checkpoint of the same step, so whatever ends the process, a resumed
    run starts from the state right after a step.

    Args:
      run: what is trained.
      data: its data sets.
      workdir: directory of checkpoints, metrics and evaluation, local or gs://.
      preemption: watches for SIGTERM; None: SIGTERM ends the process.
      compiled: the train step of `planning.fitting`, see `Session.compile`; None compiles it.
      init_from: directory of a trained run whose weights a new run starts from, see `warm_start.load`.
      writers: get every scalar of this run, such as `clu.metric_writers`; on the first process.

    Returns:
      The contents of eval/metrics.json.

    Raises:
      UserError: the workdir holds another run or is in use, the batch does not fit the devices,
        checkpoints are damaged or cannot be written, or too many updates in a row were not finite.
      Preempted: stopped by SIGTERM after saving.
    """
    workdir = files.directory(workdir)
    if run.config.distill.teacher and run.teacher is None:
        from softbio_jax.train.distillation.teacher import attach

        run = attach(run)
    run, source = directory.keep_dtype(run, workdir), ""
    if init_from or directory.recorded(workdir).get(warm_start.KEY):
        source = warm_start.source_of(workdir, init_from)
        run = dataclasses.replace(run, config=warm_start.with_base(run.config, workdir, source))
    config = run.config.train
    directory.check_workdir(run.config, workdir)
    rows, taught = data_lib.images_per_step(run.config, data), run.teacher is not None
    data_lib.check_run(run.config, data, batch_size=rows, taught=taught)
    with (
        directory.hold(workdir, console=Console(active=jax.process_index() == 0)) as check_lock,
        Training(
            *(run, data, workdir, preemption or Preemption()),
            source=source,
            writers=writers,
            check_lock=check_lock,
        ) as training,
    ):
        training.finish(training.run(config.steps, compiled))
        val = data_lib.held_out(run.config, data)
        summary = evaluate(
            training.session, data.test, workdir, model=run.summary(), val=val, console=training.console
        )
        training.console.say(closing(workdir, evaluated=bool(data.test)))
        return summary


class Training:
    """The session, sample stream, checkpoints and logs of a run; a context that closes them.

    Args:
      run: what is trained.
      data: its data sets.
      workdir: the run directory.
      preemption: watches for SIGTERM.
      source: directory of the run to start from, see `warm_start.source_of`.
      writers: see `train_and_evaluate`.
      check_lock: called before every save; raises if another process took the directory over.
    """

    def __init__(
        self,
        run: Run,
        data: RunData,
        workdir: epath.Path,
        preemption: Preemption,
        *,
        source: str = "",
        writers: Sequence[trackers.ScalarWriter] = (),
        check_lock: Callable[[], None] = lambda: None,
    ):
        self._check_lock = check_lock
        config, self._chief = run.config.train, jax.process_index() == 0
        if config.trackers:
            trackers.check(config.trackers)
        self._run, self._data, self._workdir = run, data, workdir
        self._val = data_lib.held_out(run.config, data)
        self._batch = data_lib.images_per_step(run.config, data)
        self._preemption, self._started = preemption, time.perf_counter()
        self._profile = Profile(config.profile_steps, workdir / "profile")
        preemption.leave = self.leave
        self.console = Console(active=self._chief, check=preemption.check)
        if config.compile_cache:
            folder = files.made(config.compile_cache, what="the compile cache", fix="name another folder")
            jax.config.update("jax_compilation_cache_dir", str(folder))
        self.console.say(describe(run))
        cached = config.cache_features or run.config.distill.targets == "cached"
        self.session = session_of(run) if cached else Session(run)
        self.manager = CheckpointManager(
            workdir,
            keep=config.keep,
            base=self.session.base,
            run=directory.identity(run.config),
            older=as_saved,
            console=self.console,
        )
        self._stream = self.session.batches(data)
        self.history = ValidationHistory()
        self._audits = data_lib.audit_hashes(data)
        self.session.training_images = images = data_lib.training_images(run.config, data, run.teacher)
        warnings = data_lib.coverage_warnings(data, images)
        if not data.test:
            warnings.append(f"warning: no test set, so nothing is evaluated at the end; {later(workdir)}")
        for line in (*data_lib.label_lines(data, run.config.tasks), *warnings):
            self.console.say(line)
        self.first = self._saved = self._resume()
        origin = warm_start.load(self.session, source, console=self.console) if source else None
        if self._chief:
            directory.write_start(
                run, data, workdir, audits=self._audits, images=images, warnings=warnings, origin=origin
            )
        self._progress = Progress(self.console, first=self.first, steps=config.steps, batch_size=self._batch)
        skips = SkippedUpdates(
            workdir / "skipped.jsonl" if self._chief else None,
            maximum=config.max_skipped,
            examples=lambda step: data_lib.example_names(
                data, self._stream.sampler, step=step, batch_size=config.batch_size
            ),
            console=self.console,
        )
        tracked: Sequence[trackers.ScalarWriter] = ()
        if self._chief and (config.trackers or writers):
            tracked = trackers.open_all(
                config.trackers,
                workdir,
                resume_step=self.first,
                hparams=dataclasses.asdict(run.config),
                console=self.console,
                others=writers,
            )
        writer = MetricWriter(workdir, resume_step=self.first, active=self._chief, trackers=tracked)
        self._log = MetricsLog(writer, self._progress, skips, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.close()
        self._stream.close()
        self.console.close()
        self._log.close()
        # With its own error, a process does not wait for the others, who may wait for it.
        self.manager.close(together=error is None or isinstance(error, Preempted))

    def run(self, last: int, compiled: CompiledStep | None = None) -> int:
        """Trains up to step `last`, which is saved where the run validates, saves or ends there.

        Args:
          last: an optimizer step.
          compiled: see `train_and_evaluate`.

        Returns:
          The step reached, lower where the run stopped early.

        Raises:
          UserError, Preempted: see `train_and_evaluate`.
        """
        config, step = self._run.config.train, self.first
        if self.first < last:
            self.start(compiled)
        # From the restored step: its checkpoint precedes its validation, so a run that was
        # interrupted between the two repeats the validation.
        for step in range(self.first, last + 1):
            validates = bool(self._val) and step > 0 and due(step, config.eval_every, config.steps)
            if step > self.first:
                leaves = self.step(step)
                if leaves or validates or due(step, config.checkpoint_every, config.steps):
                    self.save(step)
                if leaves:
                    self.leave()
            if validates and self.validate(step):
                break
        return step

    def start(self, compiled: CompiledStep | None = None) -> None:
        """Caches features, or a teacher's outputs, where the run does, and compiles the train step."""
        if self.session.caches:
            root = self._run.config.train.cache_dir or self._workdir / "features"
            root = files.local(root, what="the feature cache", fix="set train.cache_dir")
            self.session.cache(self._data, root, console=self.console)
        begun = time.perf_counter()
        with self.console.waiting("compiling the train step"):
            self._log.set_step(self.session.compile(compiled))
        barrier("compiled")
        self.console.say(
            f"compiled in {time.perf_counter() - begun:.1f} s; TensorBoard: "
            f"{tensorboard_command(self._workdir / 'tensorboard')}"
        )
        self.console.check()
        self._log.resume()

    def step(self, step: int) -> bool:
        """Runs one optimizer step; returns whether the run must stop after it."""
        with stall_warning(step, self.console):
            batch = next(self._stream)
        with self._profile.step(step):
            metrics = self.session.push(batch)
        self._preemption.unsaved = True
        try:
            self._record(step, metrics)
        except UserError:  # too many updates skipped: the state is still the last finite one
            with contextlib.suppress(UserError):  # the step in flight fails the same way
                self.save(step)
            raise
        return self._preemption.stops_after(step)

    def save(self, step: int) -> None:
        """Starts saving the state after a step, once all its metrics are written."""
        self._check_lock()
        failure = None
        try:
            self._record(step, self.session.drain())
            self._log.flush()
        except UserError as error:  # too many updates skipped: the state is still the last finite one
            failure = error
        # Anything else, such as Ctrl-C, saves nothing: the step would be without its metrics.
        host = {
            "stream": self._stream.get_state(),
            "watch": self.history.to_json(),
            "audits": self._audits,
            coverage.KEY: dict(self.session.training_images),
        }
        self.manager.save(step, self.session.state, host, best_step=self.history.best_step)
        self._saved = step
        if failure is not None:
            raise failure
        # A save in flight at SIGTERM has the grace period to complete. One that may take longer is
        # waited for now, or the run could fall back by up to two intervals.
        took = self.manager.last_seconds
        if took is None or took > self._preemption.grace:
            self.manager.wait()
        self._log.resume()

    def validate(self, step: int) -> bool:
        """Measures the validation loss after a saved step; returns whether to stop early."""
        config = self._run.config.train
        scalars = validate(self.session, self._val, console=self.console)
        self.console.say(f"validation at step {step}: {summary(scalars)}")
        self._progress.validated(step, scalars["val/loss"])
        self._log.write(step, scalars)
        self.history.update(step, scalars["val/loss"])
        if self._chief:
            directory.write_best(self._workdir, self.history.best_step)
        if config.patience and self.history.since_best >= config.patience:
            self.console.say(
                f"stopped early: {self.history.since_best} validations in a row without improvement"
            )
            return True
        plateau = self._run.config.optimizer.schedule == "plateau"
        if plateau and self.history.since_drop >= config.plateau_patience:
            state, factor = self.session.state, config.plateau_factor
            self.session.state = dataclasses.replace(state, rate_scale=state.rate_scale * factor)
            self.history.since_drop = 0
            self.console.say(f"validation loss on a plateau: learning rates x {factor}")
        self._log.resume()
        return False

    def leave(self) -> NoReturn:
        """Waits for the newest checkpoint and raises Preempted."""
        self.manager.wait()
        self._preemption.unsaved = False
        raise Preempted(self._saved)

    def settle(self) -> None:
        """Waits for the last save, after which the run can be left."""
        self.console.close()
        self.manager.wait()
        self._preemption.unsaved = False

    def finish(self, step: int) -> None:
        """Waits for the last save, and restores the best checkpoint where that is evaluated."""
        self.settle()
        best, train = self.history.best_step, self._run.config.train
        if train.evaluate == "best" and best not in (None, step):
            self.session.state = self.manager.restore(best, self.session.state).state
        if self._chief:
            directory.write_end(
                self._workdir,
                batch_size=self._batch,
                seconds=time.perf_counter() - self._started,
                images_per_second=self._progress.images_per_second,
            )

    def _record(self, last: int, metrics: Sequence[Metrics]) -> None:
        """Logs the metrics of the steps up to `last`."""
        for step, found in enumerate(metrics, last + 1 - len(metrics)):
            self._log.take(step, found)

    def _resume(self) -> int:
        restored = self.manager.restore_newest(self.session.state)
        if restored is None:
            if self.manager.steps():
                self.console.say("no complete checkpoint: training starts from step 0")
            return 0
        self._stream.set_state(restored.host["stream"])
        self.session.state = restored.state
        self.history = ValidationHistory.from_json(restored.host["watch"])
        self.console.say(f"resumed from step {restored.step}")
        return restored.step
