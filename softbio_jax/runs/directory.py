"""What a run directory says of itself: config.json and run.json."""

import dataclasses
import importlib.metadata
import json
import reprlib
import resource
import sys
from collections.abc import Collection, Mapping
from typing import Any

import jax
from etils import epath

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.params import flatten
from softbio_jax.runs import build
from softbio_jax.runs.build import Parts
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.data import RunData, audit_hashes, sampling_counts
from softbio_jax.tasks import MISSING

_SHOWN = 4


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], *, of: str, where: str, free: Collection[str] = ()
) -> None:
    """Raises UserError if two configurations differ, naming up to four fields and their values.

    Args:
      before: nested JSON values, as the folder has them.
      now: nested JSON values, as asked for.
      of: what the folder holds: "run", "study".
      where: the folder.
      free: dotted names of fields that may differ.

    >>> check_same({"seed": 0, "model": {"rank": 8}}, {"seed": 0, "model": {"rank": 16}},
    ...            of="run", where="runs/a", free={"seed"})
    Traceback (most recent call last):
    softbio_jax.errors.UserError: workdir holds another run: runs/a: expected the same \
configuration, found model.rank was 8, is 16; fix: take another --workdir, or set the fields back
    """
    was, is_ = _flat(before), _flat(now)
    names = [name for name in sorted((was.keys() | is_.keys()) - set(free)) if was.get(name) != is_.get(name)]
    if names:
        shown = ", ".join(
            f"{name} was {reprlib.repr(was.get(name))}, is {reprlib.repr(is_.get(name))}"
            for name in names[:_SHOWN]
        )
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise UserError(
            f"workdir holds another {of}",
            where=where,
            expected="the same configuration",
            found=shown + more,
            fix="take another --workdir, or set the fields back",
        )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path.replace("/", "."): value for path, value in flatten(values).items()}


_PACKAGES = ("softbio-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
# What may differ when a run is resumed: what no finished step depends on, or (the layout, the
# frozen type, the place of the weights, whose digest is checked) only in its last digits.
_FREE = (
    "data.root",
    "data.test",
    "data.workers",
    "mesh.fsdp",
    "frozen_dtype",
    "model.pretrained",
    "compute.attention",
    "compute.matmul_precision",
    "compute.remat",
    "compute.unroll",
    "train.cache_dir",
    "train.checkpoint_every",
    "train.compile_cache",
    "train.eval_batch_size",
    "train.evaluate",
    "train.keep",
    "train.log_every",
    "train.max_skipped",
    "train.microbatches",
    "train.profile_steps",
)
# Fields of older records that are gone, and the one value that a run could have had there.
_RETIRED = {"pretext_classes": 0}


def check_workdir(config: RunConfig, workdir: epath.PathLike) -> None:
    """Raises UserError if workdir holds a run of another configuration, naming the fields."""
    if not (epath.Path(workdir) / "config.json").exists():
        return
    # Read as a config, so that a field younger than the run has the default that it would have.
    before = _plain(read_config(workdir))
    check_same(before, _plain(config), of="run", where=str(workdir), free=_FREE)


def read_config(workdir: epath.PathLike) -> RunConfig:
    """Returns the configuration of a run directory; fields younger than it have their defaults.

    Raises:
      UserError: there is no run, or not one that this version can read.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(
            "not a run directory",
            where=str(workdir),
            expected="config.json",
            found="none",
            fix="give the --workdir of scripts/train.py",
        )
    values = json.loads(path.read_text())
    kept = {key: value for key, value in values.items() if _RETIRED.get(key, ...) != value}
    return build.config_from(kept)


def write_start(run: Parts, data: RunData, workdir: epath.PathLike) -> None:
    """Writes config.json, and what is known before the first step to run.json.

    Args:
      run: the parts of the run.
      data: its data sets: sizes, fingerprints, audits, and what the sampler makes of them.
      workdir: the run directory, local or gs://.
    """
    trained, total = run.trained_and_total()
    audits = audit_hashes(data)
    _write(epath.Path(workdir) / "config.json", _plain(run.config))
    update(
        workdir,
        {
            "command": " ".join(sys.argv),
            "versions": {"python": sys.version.split()[0]} | _versions(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
            "params": {"groups": run.sizes(), "trainable": trained, "total": total},
            "data": {
                key: {
                    "n": len(dataset),
                    "fingerprint": dataset.fingerprint,
                    "audit": audits[key],
                    "labels": {task: int((v != MISSING).sum()) for task, v in dataset.labels.items()},
                }
                for key, dataset in data.entries()
            },
            "sampling": sampling_counts(run, data),
        },
    )


def write_best(workdir: epath.PathLike, step: int | None) -> None:
    """Adds the step of the lowest validation loss to run.json."""
    update(workdir, {"best_step": step})


def read_best(workdir: epath.PathLike) -> int | None:
    """Returns the step of the lowest validation loss, None where none was measured."""
    path = epath.Path(workdir) / "run.json"
    return json.loads(path.read_text()).get("best_step") if path.exists() else None


def write_end(run: Parts, workdir: epath.PathLike, *, seconds: float, images_per_second: float) -> None:
    """Adds the wall time, rate and peak memory of the last session to run.json.

    Args:
      run: the parts of the run.
      workdir: the run directory.
      seconds: since the session's start.
      images_per_second: of training, as told last.
    """
    update(
        workdir,
        {
            "wall_time_s": seconds,
            "throughput": {str(run.config.train.batch_size): images_per_second},
            "memory_bytes": _peak_memory(),
        },
    )


def _peak_memory() -> int:
    """Returns the most bytes a device held, of the whole process where devices do not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def update(workdir: epath.PathLike, values: Mapping[str, Any]) -> None:
    """Adds values to run.json, in place of those of the same names."""
    path = epath.Path(workdir) / "run.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    _write(path, before | dict(values))


def _write(path: epath.Path, values: Mapping[str, Any]) -> None:
    files.write_text(path, json.dumps(values, indent=2) + "\n")


def _plain(config: RunConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a checkout that was not installed
    return found
