"""The sections on what a run costs, and on how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax import console
from softbio_jax.errors import UserError
from softbio_jax.evaluation.report import document
from softbio_jax.evaluation.report.document import NOTHING, Block, Section, Table, Text
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.models.config import vision_config
from softbio_jax.models.flops import vision_flops


def cost(runs: Sequence[RunResults]) -> Section:
    """Returns parameters, FLOPs, latency, throughput, memory and time of every run."""
    own = [run for run in runs if not run.external]
    columns = {run.name: measured(run) for run in own}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    missing = "; ".join(
        f"{run}: {', '.join(name for name in names if column[name] == NOTHING)}"
        for run, column in columns.items()
        if NOTHING in column.values()
    )
    table = Table(
        title="Size, speed and time",
        header=("", *columns),
        rows=tuple(
            (name, *(column[name] for column in columns.values()))
            for name in names
            if any(column[name] != NOTHING for column in columns.values())
        ),
        notes=(f"Not recorded: {missing}.",) if missing else (),
    )
    groups = [
        Table(
            title=f"{run.name}: parameters per group",
            header=("group", "parameters"),
            rows=tuple((str(name), document.count(n)) for name, n in found.items()),
        )
        for run in own
        if (found := (run.info.get("params") or {}).get("groups"))
    ]
    return Section(title="Cost", blocks=(table, *groups))


def measured(run: RunResults) -> dict[str, str]:
    """Returns the measurements of one run by their names in the table."""
    model, info = run.summary["model"], run.info
    inference = info.get("inference") or {}
    trainable, total = model.get("trainable_params"), model.get("total_params")
    memory, seconds = info.get("memory_bytes"), info.get("wall_time_s")
    share = trainable / total if trainable is not None and total else None
    return {
        "variant": str(model.get("variant", NOTHING)),
        "method": str(model.get("method", NOTHING)),
        "parameters": document.count(total),
        "trainable parameters": document.count(trainable),
        "trainable share, %": document.percent(share),
        "GFLOPs per image, encoder": document.number(encoder_gflops(run)),
        "latency at batch 1, ms": document.number(inference.get("latency_ms"), digits=1),
        "best inference, images/s": _best(inference.get("throughput")),
        "training, images/s": _best(info.get("throughput")),
        "peak memory, GiB": document.number(memory / 2**30 if memory else None),
        "training time, (h:)mm:ss": NOTHING if seconds is None else console.duration(seconds),
        "device": _device(info.get("device"), inference.get("device")),
    }


def encoder_gflops(run: RunResults) -> float | None:
    """Returns the forward pass of a run's vision encoder for one image, in 10^9 operations.

    Counted from shapes (`models.flops`: all matrix products, including attention); None where the
    run has no config or its variant is unknown.
    """
    model = run.config.get("model") or {}
    try:
        config = vision_config(model["variant"])
        config = config.first(model.get("blocks") or config.layers, where="model.blocks")
    except (KeyError, UserError):
        return None
    side = (model.get("image_size") or config.image_size) // config.patch_size
    return vision_flops(config, grid=(side, side)).total / 1e9


def _device(training: str | None, inference: str | None) -> str:
    if training and inference and training != inference:
        return f"{training}; inference: {inference}"
    return training or inference or NOTHING


def _best(rates: Mapping[str, float] | None) -> str:
    if not rates:
        return NOTHING
    batch, rate = max(rates.items(), key=lambda item: item[1])
    return f"{rate:,.0f} (batch {batch})"


def provenance(runs: Sequence[RunResults]) -> Section:
    """Returns commands, versions, data and configs, with which a run can be repeated."""
    blocks: list[Block] = []
    for run in runs:
        if run.external:
            blocks.append(Text(text=f"{run.name}: metrics computed from the given predictions."))
            continue
        facts = {
            "command": run.info.get("command"),
            "device": run.info.get("device"),
            **{f"version of {k}": v for k, v in (run.info.get("versions") or {}).items()},
            **{f"data {k}": _line(v) for k, v in (run.info.get("data") or {}).items()},
            **{f"config {k}": v for k, v in flat(run.config).items()},
        }
        rows = tuple((key, str(value)) for key, value in facts.items() if value not in (None, ""))
        if rows:
            blocks.append(Table(title=run.name, header=("what", "value"), rows=rows, text_columns=2))
        else:
            blocks.append(Text(text=f"{run.name}: neither run.json nor config.json."))
    return Section(title="How it was made", blocks=tuple(blocks))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns nested settings as dotted keys."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: _line(value)}
    return found


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_line, value))
    return str(value)
