"""The records of a run directory: config.json and run.json."""

import contextlib
import dataclasses
import importlib.metadata
import json
import reprlib
import resource
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from softbio_jax import coverage, files
from softbio_jax.checkpoints.arrays import any_process
from softbio_jax.console import QUIET, Console
from softbio_jax.data import index
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.params import flatten
from softbio_jax.registry import Registry
from softbio_jax.runs import build
from softbio_jax.runs.build import Run
from softbio_jax.runs.config import RunConfig, config_from
from softbio_jax.runs.data import RunData, label_counts, sampling_counts
from softbio_jax.safety import locks, untrusted
from softbio_jax.tasks import MISSING

_PACKAGES = ("softbio-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
# Fields that may differ when a run resumes: no completed step depends on them, or (mesh, frozen
# dtype, path of the weights, whose digest is checked) only in its last digits.
_FREE = (
    "data.not_averaged",
    "data.root",
    "data.synthetic_labels",
    "data.test",
    "data.workers",
    "distill.teacher",
    "mesh.fsdp",
    "frozen_dtype",
    "model.flip_average",
    "model.pretrained",
    "compute.attention",
    "compute.block_rows",
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
    "train.trackers",
)
# Removed fields of older run directories, and the only value that a run could have had.
_RETIRED = {"pretext_classes": 0}
_SHOWN = 4  # differing fields in a message


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], *, of: str, where: str, free: Collection[str] = ()
) -> None:
    """Raises UserError if two configurations differ, naming up to four fields and their values.

    Args:
      before: nested JSON values, of the folder.
      now: nested JSON values, of this start.
      of: the kind of folder, "run" or "study".
      where: the folder.
      free: dotted names of fields, or of groups of fields, that may differ.

    >>> check_same({"seed": 0, "model": {"rank": 8}}, {"seed": 0, "model": {"rank": 16}},
    ...            of="run", where="runs/a", free={"seed"})
    Traceback (most recent call last):
    softbio_jax.errors.UserError: workdir holds another run: runs/a: expected the same \
configuration, found model.rank was 8, is 16; fix: choose another --workdir, or set the fields back
    """
    was, is_ = _flat(before), _flat(now)
    names = [
        name
        for name in sorted(was.keys() | is_.keys())
        if was.get(name) != is_.get(name) and not _is_free(name, free)
    ]
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
            fix="choose another --workdir, or set the fields back",
        )


def _is_free(name: str, free: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{field}.") for field in free)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path.replace("/", "."): value for path, value in flatten(values).items()}


# Each adds to the content of an older config.json what that version did without a field of its own.
UPGRADES = Registry[Callable[[Mapping[str, Any]], dict[str, Any]]](
    "upgrade", where="config.json", group="softbio_jax.upgrades"
)


def keep_dtype(run: Run, workdir: epath.PathLike) -> Run:
    """Returns the run with the compute.dtype that it began with, where "auto" is another one here.

    So a run that moves to another kind of device continues with the same arithmetic.
    """
    if not run.auto_dtype or not (epath.Path(workdir) / "config.json").exists():
        return run
    dtype = read_config(workdir).compute.dtype
    if dtype == run.config.compute.dtype:
        return run
    compute = dataclasses.replace(run.config.compute, dtype=dtype)
    return build.build(dataclasses.replace(run.config, compute=compute), teacher=run.teacher)


def check_workdir(config: RunConfig, workdir: epath.PathLike) -> None:
    """Raises UserError if workdir holds a run of another configuration, naming the fields.

    With compute.dtype="auto" the run may have any type.
    """
    if not (epath.Path(workdir) / "config.json").exists():
        return
    # Read as a configuration, so that a field added since has its default.
    before = _plain(read_config(workdir))
    free = (*_FREE, "compute.dtype") if config.compute.dtype == "auto" else _FREE
    check_same(before, _plain(config), of="run", where=str(workdir), free=free)


def identity(config: RunConfig) -> dict[str, Any]:
    """Returns the fields of a configuration that every checkpoint of its run has, by dotted name."""
    fields = _flat(_plain(config))
    return {name: value for name, value in fields.items() if not _is_free(name, _FREE)}


@contextlib.contextmanager
def hold(workdir: epath.PathLike, *, console: Console = QUIET) -> Iterator[Callable[[], None]]:
    """Holds the lock of a run directory for all processes; the first one has it.

    Yields:
      A function that raises UserError once another process took the lock over; see `locks`.

    Raises:
      UserError: another process works in the directory.
    """
    with contextlib.ExitStack() as stack:
        check, error = (lambda: None), None
        if jax.process_index() == 0:
            try:
                check = stack.enter_context(locks.hold(workdir, console=console)).check
            except (UserError, OSError) as failure:
                error = failure
        if any_process("locked", error is not None):
            fix = "see the message of the first process"
            raise error or UserError("workdir cannot be used", where=str(workdir), fix=fix)
        yield check


def read_config(workdir: epath.PathLike) -> RunConfig:
    """Returns the configuration of a run directory; fields added since have their defaults.

    Raises:
      UserError: no run, or one that this version cannot read.
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
    values = _read(path)
    for upgrade in UPGRADES.values():
        values = upgrade(values)
    kept = {key: value for key, value in values.items() if _RETIRED.get(key, ...) != value}
    return config_from(kept)


def write_start(
    run: Run,
    data: RunData,
    workdir: epath.PathLike,
    *,
    audits: Mapping[str, str | None],
    images: coverage.TrainingImages = coverage.UNKNOWN,
    warnings: Sequence[str] = (),
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json, and to run.json everything known before the first step.

    Args:
      run: what is trained.
      data: its data sets; their sizes, fingerprints and sampled class counts are recorded.
      workdir: the run directory, local or gs://.
      audits: see `audit_hashes`.
      images: training images per class, see `data.training_images`.
      warnings: see `data.coverage_warnings`.
      origin: see `warm_start.load`; None leaves what is recorded.
    """
    trained, total = run.trained_and_total()
    _write(epath.Path(workdir) / "config.json", _plain(run.config))
    update(
        workdir,
        {
            "command": " ".join(sys.argv),
            "versions": {"python": sys.version.split()[0]} | _versions(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
            "compute_dtype": run.config.compute.dtype,
            "params": {"groups": run.sizes(), "trainable": trained, "total": total},
            "data": {
                key: {
                    "n": len(dataset),
                    "fingerprint": dataset.fingerprint,
                    "audit": audits[key],
                    "crop": _crop(dataset),
                    "labels": {task: int((v != MISSING).sum()) for task, v in dataset.labels.items()},
                }
                for key, dataset in data.entries()
            },
            "sampling": sampling_counts(run.config, data),
            **({"labels": counts} if (counts := label_counts(data, run.config.tasks)) else {}),
            coverage.KEY: dict(images),
            "warnings": list(warnings),
        }
        | ({"init_from": origin} if origin else {}),
    )


def _crop(dataset: PreparedDataset) -> dict[str, Any] | None:
    """Returns how a set's images are cut, None where its preparation did not record it."""
    folder = dataset.directory
    found = index.read_report(folder).get("crop") if (epath.Path(folder) / index.REPORT).exists() else None
    return found if isinstance(found, dict) else None


def changed_data(data: RunData, workdir: epath.PathLike) -> UserError | None:
    """Returns an error about the sets whose fingerprints are not those in run.json, None if there are none.

    A set that run.json does not list, or lists without a fingerprint, counts as unchanged.
    """
    path = epath.Path(workdir) / "run.json"
    listed = recorded(workdir).get("data")
    entries = listed if isinstance(listed, dict) else {}
    changed = []
    for key, dataset in data.entries():
        entry = entries.get(key)
        expected = entry.get("fingerprint") if isinstance(entry, dict) else None
        if isinstance(expected, str) and expected not in dataset.fingerprints():
            changed.append((key, expected, dataset))
    if not changed:
        return None
    key, expected, dataset = changed[0]
    more = f", and {len(changed) - 1} more sets differ" if len(changed) > 1 else ""
    return UserError(
        "not the data of this run",
        where=f"{key} in {dataset.directory}",
        expected=f"the fingerprint in {path}, {expected[:12]}",
        found=f"{dataset.fingerprint[:12]}{more}",
        fix="give the root of the run's data by --data, prepare the set again as it was for the run, or "
        "evaluate on this one into another folder by --out",
    )


def write_best(workdir: epath.PathLike, step: int | None) -> None:
    """Adds the step of the lowest validation loss to run.json."""
    update(workdir, {"best_step": step})


def read_best(workdir: epath.PathLike) -> int | None:
    """Returns the step of the lowest validation loss, None where none was measured."""
    step = recorded(workdir).get("best_step")
    if not (step is None or isinstance(step, int)):
        raise UserError("a damaged run.json", where=str(workdir), found=f"best_step {step!r}", fix=_FIX)
    return step


def recorded(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the contents of run.json, empty where there is none."""
    path = epath.Path(workdir) / "run.json"
    return _read(path) if path.exists() else {}


def write_end(workdir: epath.PathLike, *, batch_size: int, seconds: float, images_per_second: float) -> None:
    """Adds the wall time in seconds, throughput and peak memory of the last session to run.json."""
    update(
        workdir,
        {
            "wall_time_s": seconds,
            "throughput": {str(batch_size): images_per_second},
            "memory_bytes": _peak_memory(),
        },
    )


def _peak_memory() -> int:
    """Returns the peak memory of the first device, or of this process where devices do not report it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def update(workdir: epath.PathLike, values: Mapping[str, Any]) -> None:
    """Adds values to run.json, replacing those of the same names."""
    _write(epath.Path(workdir) / "run.json", recorded(workdir) | dict(values))


_FIX = "restore it from a copy"


def _read(path: epath.Path) -> dict[str, Any]:
    return untrusted.read_json(path, wrong=f"a damaged {path.name}", fix=_FIX, own=True)


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
