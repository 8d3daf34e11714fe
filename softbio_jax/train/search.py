"""Searches over keys of a configuration: every combination, or successive halving; runs of any method."""

import ast
import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax import files
from softbio_jax.console import Console, aligned
from softbio_jax.errors import UserError
from softbio_jax.escaping import csv_line
from softbio_jax.runs import build, directory
from softbio_jax.runs import config as config_lib
from softbio_jax.runs import data as data_lib
from softbio_jax.train.loop import Training
from softbio_jax.train.preemption import Preemption
from softbio_jax.train.progress import DivergedError

RATES = "rates"  # the key that stands for a factor of all rates of the configuration
_COMMA = re.compile(r",(?![^(\[{]*[)\]}])")  # outside of brackets
_UNSCALED = "log_var"  # the group whose rate no factor changes
_FIXED = ("tasks", "data.root", "data.train", "data.val_fraction", "data.split_seed")
Point = Mapping[str, Any]  # dotted key -> value


@dataclasses.dataclass
class Trial:
    """One combination of values: a run in a folder of its own, and how far it has come."""

    point: Point
    folder: str  # below the search's
    step: int = 0  # up to which it was trained
    scalars: dict[str, float] = dataclasses.field(default_factory=dict)  # of the validation it is judged by
    ended: str = ""  # why it is not trained further: "", "finished", "stopped early", "diverged"

    @property
    def loss(self) -> float:
        """The validation loss, infinite where there is none or it is not a number."""
        loss = self.scalars.get("val/loss", math.inf)
        return loss if math.isfinite(loss) and self.ended != "diverged" else math.inf


def parse(over: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the keys and values of texts "KEY=VALUE,VALUE,...": Python's literals, otherwise text.

    Raises:
      UserError: no key, no value, or a key given twice.

    >>> parse(["config.seed=0, 1", "augment.scale=(1, 2),(1, 3)"])
    {'seed': [0, 1], 'augment.scale': [(1, 2), (1, 3)]}
    """
    found: dict[str, list[Any]] = {}
    for text in over:
        key, equals, values = text.partition("=")
        key = key.strip().removeprefix("config.")
        if not equals or not values.strip() or not key or key in found:
            raise UserError(
                "not a key with its values" if key not in found else "a key that is given twice",
                where=f"--over={text}",
                expected="KEY=VALUE,VALUE,... once per key",
                found=text,
                fix="write it as in --over=rates=0.3,1,3",
            )
        found[key] = [_literal(value.strip()) for value in _COMMA.split(values)]
        if key == RATES and not all(isinstance(v, int | float) and 0 < v < 1e6 for v in found[key]):
            what, fix = "not a factor of the rates", "write it as in --over=rates=0.3,1,3"
            raise UserError(what, where=f"--over={text}", expected="numbers above 0", found=values, fix=fix)
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def combinations(over: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns every combination of the values of each key, the last key's values next to each other.

    >>> combinations({"seed": [0, 1], "rates": [1.0]})
    [{'seed': 0, 'rates': 1.0}, {'seed': 1, 'rates': 1.0}]
    """
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def rungs(trials: int, *, steps: int, every: int, eta: int) -> list[tuple[int, int]]:
    """Returns the rungs of successive halving as (number of trials, step that they are trained to).

    With n trials there are r = floor(log_eta n) halvings: rung k has floor(n / eta^k) trials, which
    are trained to step S / eta^(r - k), rounded up to a validation.

    Args:
      trials: n >= 1.
      steps: S, of a whole run.
      every: steps between two validations.
      eta: the factor, >= 2; 0: a single rung with all trials.

    >>> rungs(9, steps=900, every=100, eta=3)
    [(9, 100), (3, 300), (1, 900)]

    Source: Jamieson and Talwalkar 2016, arXiv:1502.07943; the schedule is that of a whole run.
    """
    found, kept = [(trials, steps)], trials
    if eta:
        halvings = 0
        while eta ** (halvings + 1) <= trials:
            halvings += 1
        found = []
        for k in range(halvings + 1):
            step = min(steps, every * math.ceil(steps / eta ** (halvings - k) / every))
            kept = max(1, trials // eta**k)
            if found and found[-1][1] == step:  # two rungs between the same validations
                found.pop()
            found.append((kept, step))
    return found


def search(
    values: Mapping[str, Any],
    points: Sequence[Point],
    workdir: pathlib.Path,
    *,
    eta: int = 0,
    console: Console,
    preemption: Preemption | None = None,
) -> list[Trial]:
    """Trains a run per point and ranks them by validation loss; test sets are not read.

    A trial is judged by the validation that its run would be evaluated at (`train.evaluate`). What
    a former call with the same configuration has trained is not trained again.

    Args:
      values: the configuration as nested mappings.
      points: what each trial changes; the key `RATES` multiplies all rates but the log-variances'.
      workdir: has a run directory per trial, sweep.json and sweep.csv.
      eta: 0 trains every trial to its end, otherwise see `rungs`.
      console: prints a line before every trial.
      preemption: watches for SIGTERM.

    Returns:
      The trials, by increasing loss; trials that came further first.

    Raises:
      UserError: a bad key or value, no validation, all trials diverged, or the workdir is in use.
      Preempted: stopped by SIGTERM after saving.
    """
    configs = [_config(values, point, workdir) for point in points]
    _check(configs, points, eta)
    folders = [f"trials/{_digest(config, point)}" for config, point in zip(configs, points, strict=True)]
    if len(set(folders)) < len(folders):
        raise UserError("a value that is given twice", where="--over", fix="list every value once")
    with directory.hold(workdir, console=console) as check_lock:
        known = _recorded(workdir)
        trials = [
            known.get(folder) or Trial(point, folder) for point, folder in zip(points, folders, strict=True)
        ]
        runs = dict(zip(folders, configs, strict=True))
        train, left = configs[0].train, list(trials)
        for kept, last in rungs(len(trials), steps=train.steps, every=train.eval_every or 1, eta=eta):
            left = sorted(left, key=lambda trial: trial.loss)[:kept]
            for number, trial in enumerate(left, 1):
                own = runs[trial.folder]
                until = last if eta else own.train.steps
                if trial.ended or trial.step >= until:
                    continue
                console.say(f"trial {number} of {len(left)}, to step {until:,}: {_shown(trial.point)}")
                _train(own, trial, workdir, until, preemption or Preemption())
                check_lock()
                _write(workdir, trials)
        trials.sort(key=lambda trial: (-trial.step if not math.isinf(trial.loss) else 1, trial.loss))
        _write(workdir, trials)
    if math.isinf(trials[0].loss):
        raise UserError(
            "every trial diverged", where=str(workdir), found=f"{len(trials)} trials", fix="lower the rates"
        )
    return trials


def table(trials: Sequence[Trial], workdir: pathlib.Path) -> str:
    """Returns the trials as a table, and how to evaluate the best one."""
    keys, best = list(trials[0].point), trials[0]
    tested = directory.read_config(workdir / best.folder).data.test
    rows = [(*keys, "step", "val loss", "state", "folder")]
    rows += [
        (
            *(str(trial.point[key]) for key in keys),
            f"{trial.step:,}",
            f"{trial.scalars.get('val/loss', math.nan):.4f}",
            trial.ended,
            trial.folder,
        )
        for trial in trials
    ]
    return "\n".join(
        [
            aligned(rows, text_columns=0),
            f"lowest validation loss {best.loss:.4f}: {_shown(best.point)}",
            f"evaluate it: scripts/evaluate.py --workdir={workdir / best.folder}"
            + ("" if tested else " --test=NAME/SPLIT"),
        ]
    )


def _train(
    config: config_lib.RunConfig, trial: Trial, workdir: pathlib.Path, last: int, preemption: Preemption
) -> None:
    """Trains a trial up to step `last` and records its validation."""
    begun = time.perf_counter() - trial.scalars.get("seconds", 0.0)
    folder = files.directory(workdir / trial.folder)
    run, data = build.build(config), data_lib.open_all(config.data)
    if taught := bool(config.distill.teacher):
        from softbio_jax.train.distillation.teacher import attach

        run = attach(run)
    data_lib.check_run(config, data, batch_size=config.train.batch_size, taught=taught)
    with (
        directory.hold(folder) as check_lock,
        Training(run, data, folder, preemption, check_lock=check_lock) as training,
    ):
        try:
            trial.step = training.run(last)
        except DivergedError as error:
            training.console.say(f"this trial is given up: {error}")
            trial.ended = "diverged"
        else:
            if trial.step < last:
                trial.ended = "stopped early"
            elif last == config.train.steps:
                trial.ended = "finished"
            training.settle()
        best = training.history.best_step
    validations = _validations(folder)
    judged = best if config.train.evaluate == "best" else max(validations, default=None)
    trial.scalars = validations.get(judged, {}) if judged is not None else {}
    trial.scalars |= {"seconds": time.perf_counter() - begun}


def _validations(folder: Any) -> dict[int, dict[str, float]]:
    """Returns the validations of a run by their steps."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        scalars = json.loads(line)
        if "val/loss" in scalars and scalars["val/loss"] is not None:
            found[scalars.pop("step")] = scalars
    return found


def _config(values: Mapping[str, Any], point: Point, workdir: pathlib.Path) -> config_lib.RunConfig:
    """Returns the configuration of a trial."""
    changed = json.loads(json.dumps(values))  # a copy, of tuples as lists
    for key, value in point.items():
        if key == RATES:
            for group, rate in changed["optimizer"]["rates"].items():
                if group != _UNSCALED:
                    changed["optimizer"]["rates"][group] = rate * value
            continue
        *groups, name = key.split(".")
        place = changed
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                what, fix = "unknown config key", "softbio-jax config lists the keys"
                raise UserError(what, where=f"config.{key}", found=f"no group {group}", fix=fix)
        place[name] = value
    if changed["train"].get("cache_features") and not changed["train"].get("cache_dir"):
        changed["train"]["cache_dir"] = str(workdir / "features")  # shared by the trials
    config = config_lib.config_from(changed)
    config_lib.check(config)
    build.method_of(config.method)
    return config


def _check(configs: Sequence[config_lib.RunConfig], points: Sequence[Point], eta: int) -> None:
    if not points or not points[0]:
        raise UserError("nothing to sweep over", where="--over", fix="write it as in --over=rates=0.3,1,3")
    for key in points[0]:
        if key in _FIXED:
            raise UserError(
                "trials whose losses cannot be compared",
                where=f"--over={key}",
                found="another validation set or other tasks for every value",
                fix="start a sweep of its own for each value",
            )
    config = configs[0]
    if not config.data.val_fraction:
        what, fix = "no validation rows to select by", "set a fraction above 0"
        raise UserError(what, where="data.val_fraction", expected="validation rows", found="none", fix=fix)
    if eta and not config.train.eval_every:
        what, fix = "no validation before the last step", "set train.eval_every to the steps of a first rung"
        raise UserError(what, where="--halving", expected="validations", found="train.eval_every=0", fix=fix)
    if len({(c.train.steps, c.train.eval_every) for c in configs}) > 1 and eta:
        what, fix = "trials of different lengths", "compare them without --halving"
        raise UserError(what, where="--halving", found="different steps", fix=fix)


def _digest(config: config_lib.RunConfig, point: Point) -> str:
    what = json.dumps([directory.identity(config), dict(point)], sort_keys=True, default=list)
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def _shown(point: Point) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def _recorded(workdir: pathlib.Path) -> dict[str, Trial]:
    """Returns the trials of a former call by their folders, of those whose run is still there."""
    try:
        rows = json.loads((workdir / "sweep.json").read_text())["trials"]
        trials = [Trial(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # the runs themselves resume
    return {trial.folder: trial for trial in trials if (workdir / trial.folder / "metrics.jsonl").exists()}


def _write(workdir: pathlib.Path, trials: Sequence[Trial]) -> None:
    values = {"selected_by": "val/loss", "trials": [dataclasses.asdict(trial) for trial in trials]}
    files.write_text(workdir / "sweep.json", json.dumps(values, indent=2) + "\n")
    names = list(dict.fromkeys(name for trial in trials for name in trial.scalars))
    lines = [csv_line([*trials[0].point, "step", "ended", "folder", *names])]
    for trial in trials:
        scalars = [trial.scalars.get(name) for name in names]
        lines.append(csv_line([*trial.point.values(), trial.step, trial.ended, trial.folder, *scalars]))
    files.write_text(workdir / "sweep.csv", "".join(lines))
