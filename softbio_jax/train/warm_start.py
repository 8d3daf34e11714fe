"""Starting a new run from the weights of a trained one."""

import dataclasses
from typing import Any

import jax
from etils import epath

from softbio_jax import coverage, files
from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.interop.reading import locate
from softbio_jax.models.attention.choice import on_this_machine
from softbio_jax.runs import build, directory, optimizer, parallel, restore
from softbio_jax.runs.build import Run
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.session import Session
from softbio_jax.runs.state import as_saved
from softbio_jax.tasks import TASKS

KEY = "init_from"  # the entry of run.json
_FLAG = "--init_from"
_SHOWN = 4  # differing settings in a message


def source_of(workdir: epath.PathLike, init_from: str = "") -> str:
    """Returns the run directory whose weights a run starts from; reads configurations alone.

    It is empty for a run without one, and for a run that is resumed, which does not need it any more. A run
    that was interrupted before its first checkpoint starts from the same directory again.

    Args:
      workdir: directory of the new run.
      init_from: directory of the trained run, where one is given.

    Raises:
      UserError: `init_from` is no trained run or is the workdir, or the workdir holds a run that began
        from something else.
    """
    target = files.absolute(workdir)
    before = directory.recorded(target).get(KEY)
    was = str(before.get("run", "")) if isinstance(before, dict) else ""
    given = str(files.absolute(init_from)) if init_from else ""
    if _begun(target):
        if given not in ("", was):
            raise UserError(
                "workdir holds another run",
                where=str(workdir),
                expected=f"a run that began from {init_from}",
                found=f"one that began from {was or 'its pretrained weights'}",
                fix=f"choose another --workdir, or omit {_FLAG} to resume",
            )
        return ""
    source = given or was
    if not source:
        return ""
    config = epath.Path(source) / "config.json"
    if saved := _saved_model(str(init_from), source):
        raise UserError(
            "a saved model, which only predicts",
            where=f"{_FLAG}: {init_from}",
            expected="the --workdir of a run, whose adapters and heads are separate from its encoder",
            found=saved,
            fix=_encoder_of(str(init_from)),
        )
    if source == str(target) or not config.exists() or not _manager(source).finished():
        raise UserError(
            "no run to start from",
            where=f"{_FLAG}: {init_from or was}",
            expected="the --workdir of another run that has a checkpoint",
            found="this run's own --workdir" if source == str(target) else _kind(source),
            fix="correct the path",
        )
    directory.read_config(source)
    return source


def with_base(config: RunConfig, workdir: epath.PathLike, source: str) -> RunConfig:
    """Returns config with the pretrained weights of the run that it starts from, where it names none.

    Args:
      config: of the new run.
      workdir: its directory; a run that is resumed keeps the weights that it began with.
      source: see `source_of`.
    """
    resumed = _begun(files.absolute(workdir)) and KEY in directory.recorded(workdir)
    before = source or (workdir if resumed else "")
    if config.model.pretrained or not before:
        return config
    model = dataclasses.replace(config.model, pretrained=directory.read_config(before).model.pretrained)
    return dataclasses.replace(config, model=model)


def load(session: Session, source: str, *, console: Console = QUIET) -> dict[str, Any]:
    """Gives a session that has not begun the weights of a trained run.

    These are every trained leaf (its average, where the run kept one), log-variances included, and the
    heads' running statistics, of the checkpoint that the run's configuration evaluates. The optimizer's
    state, the step and the rate scale stay new. Every process must call it.

    Args:
      session: its state is replaced.
      source: directory of the trained run.
      console: reports damaged checkpoints that are skipped.

    Returns:
      JSON values that identify the weights: run, step, and the digest of the checkpoint's manifest.

    Raises:
      UserError: no undamaged checkpoint, or a run of other tasks, classes, leaves or frozen weights.
    """
    config = directory.read_config(source)
    found = build.build(dataclasses.replace(config, compute=on_this_machine(config.compute)))
    _check_model(session.run, found, where=source)
    like, _ = build.abstract_start(found)
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        like,
        parallel.trained_shardings(like, session.mesh),
    )
    restored = restore.evaluated(_manager(source, console), like, found.config, epath.Path(source))
    if restored.base != session.base:
        named, seed = found.config.model.pretrained, found.config.seed
        raise UserError(
            "the frozen weights are not those of the run to start from",
            where=f"{_FLAG}: {source}",
            expected=f"digest {restored.base[:12]}",
            found=session.base[:12],
            fix=f"set model.pretrained={named}" if named else f"set seed={seed}: they are random weights",
        )
    _check_classes(coverage.from_json(restored.host.get(coverage.KEY)), where=source)
    trainable = optimizer.evaluated(restored.state)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, session.state.opt_state)
    session.state = dataclasses.replace(
        session.state,
        trainable=trainable,
        batch_stats=restored.state.batch_stats,
        # A moving average begins at the weights.
        opt_state=jax.jit(session.run.optimizer.init, out_shardings=shardings)(trainable),
    )
    console.say(f"weights of step {restored.step} of {source}")
    return {"run": source, "step": restored.step, "digest": restored.digest}


def _begun(workdir: epath.Path) -> bool:
    """Returns whether a run directory holds a finished checkpoint, from which its run is resumed."""
    return (workdir / "config.json").exists() and bool(_manager(workdir).finished())


def _manager(workdir: epath.PathLike, console: Console = QUIET) -> CheckpointManager:
    return CheckpointManager(workdir, keep=1, base=None, older=as_saved, console=console)


def _saved_model(init_from: str, source: str) -> str:
    """Returns what kind of saved model is given, "" for a run, a path that does not exist or nothing."""
    folder = epath.Path(source)
    if (folder / "model.safetensors").exists() and not (folder / "checkpoints").exists():
        return "a folder with model.safetensors"
    # runs/mine looks like a hub id; if the parent folder exists, it is a mistyped path.
    if locate.is_hub_id(init_from) and not epath.Path(init_from).parent.exists():
        return "the form of a hub id"
    return ""


def _encoder_of(model: str) -> str:
    """Returns how a run that cannot start from a model starts from its encoder."""
    export = f"scripts/export.py --model={model} --format=safetensors --out=encoder.safetensors"
    return (
        f"{export} writes its encoder, adapters merged; --config.model.pretrained=encoder.safetensors "
        f"instead of {_FLAG} starts from it, with new heads"
    )


def _kind(source: str) -> str:
    folder = epath.Path(source)
    if not folder.is_dir():
        return "no such folder"
    return "no checkpoint" if (folder / "config.json").exists() else "no config.json"


def _check_model(run: Run, found: Run, *, where: str) -> None:
    """Raises UserError unless both runs compute the same from the same leaves, naming what differs."""
    ours, theirs = _settings(run), _settings(found)
    names = [name for name in ours if ours[name] != theirs[name]]
    if names:
        # First, since it explains the others.
        method = [(found.method.name, run.method.name)] if run.method.name != found.method.name else []
        pairs = [(f"method {old}", new) for old, new in method]
        pairs += [(f"{name} {theirs[name]}", f"{ours[name]}") for name in names[:_SHOWN]]
        encoder = method and all(name.startswith("method.") for name in names)
        raise UserError(
            "another model than that of the run to start from",
            where=f"{_FLAG}: {where}",
            expected=", ".join(expected for expected, _ in pairs),
            found=", ".join(has for _, has in pairs),
            fix=_encoder_of(where) if encoder else "set it as in its config.json",
        )
    for path in sorted(run.shapes.keys() | found.shapes.keys()):
        expected, has = _leaf(found, path), _leaf(run, path)
        if expected != has:
            raise UserError(
                "another model than that of the run to start from",
                where=f"{_FLAG}: {where}: {path}",
                expected=expected,
                found=has,
                fix=_encoder_of(where)
                if run.method.name != found.method.name and not path.startswith(("heads/", "balance/"))
                else "set method, tasks, head and balancing as in its config.json",
            )


def _leaf(run: Run, path: str) -> str:
    if path not in run.shapes:
        return "no such leaf"
    return f"shape {run.shapes[path].shape} in the group {run.groups[path]}"


def _settings(run: Run) -> dict[str, Any]:
    """Returns what the outputs depend on besides the leaves, by the names of the settings."""
    rules = run.method.rules
    pairs = [*rules.rules, *(rules.per_task.rules if rules.per_task else ())]
    own = rules.per_task and dataclasses.replace(rules.per_task, rules=())
    return {
        "tasks": sorted(run.config.tasks),
        "model.variant": run.model.config.name,
        "model.feature": run.config.model.feature,
        "method.rank": {path: rule.rank if isinstance(rule, LoRAConfig) else rule for path, rule in pairs},
        "method.scale": {path: rule.scale for path, rule in pairs if isinstance(rule, LoRAConfig)},
        "method.task_lora": own,
    }


def _check_classes(trained: coverage.TrainingImages, *, where: str) -> None:
    """Raises UserError if a task's classes are no longer those that the run was trained on."""
    for task, images in trained.items():
        if tuple(images) != TASKS[task].classes:
            raise UserError(
                "other classes than those of the run to start from",
                where=f"{_FLAG}: {where}: {task}",
                expected=", ".join(images),
                found=", ".join(TASKS[task].classes),
                fix="register the task with the same classes in the same order",
            )
