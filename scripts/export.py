"""Writes a trained run in a form that other programs read.

python scripts/export.py --model=runs/mine --format=peft --out=exports/adapter
python scripts/export.py --model=runs/mine --format=safetensors --out=exports/tower.safetensors
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from softbio_jax import command

_MODEL = flags.DEFINE_string("model", None, "A run of scripts/train.py.", required=True)
_FORMAT = flags.DEFINE_enum(
    "format", None, ["peft", "thesis", "safetensors"],
    "peft: the adapters, for timm's tower; thesis: a checkpoint folder of the thesis' code; "
    "safetensors: the vision tower with the adapters folded in, under the official keys.",
    required=True,
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "What to write; it must not exist.", required=True)
_TASK = flags.DEFINE_string("task", None, "MTLoRA: whose tower, with --format=safetensors.")


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.errors import UserError
    from softbio_jax.interop import peft, thesis
    from softbio_jax.interop.safe_load import save_arrays
    from softbio_jax.train.restore import restore_run

    out = pathlib.Path(_OUT.value)
    if out.exists():
        raise UserError("the destination exists", where=str(out), expected="a new name",
                        found="something there", fix="remove it or name another")  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    session = restore_run(pathlib.Path(_MODEL.value))
    model, params = session.run.model, session.params()
    names = [task.name for task in model.tasks]
    if _TASK.value is not None and _TASK.value not in names:
        raise UserError("unknown task", where="--task", expected=", ".join(names),
                        found=repr(_TASK.value), fix="name one of them")  # fmt: skip
    if _FORMAT.value == "safetensors":
        task = None if _TASK.value is None else names.index(_TASK.value)
        arrays = peft.merged(params, model.adapters, task=task)
        save_arrays(out, arrays, metadata={"format": "pt", "variant": model.config.name})
    elif not model.adapters.rules:
        raise UserError("no adapters in this run", where=_MODEL.value,
                        expected="a run of lora, lora_plus, dora or mtlora",
                        found=session.run.method.name, fix="use --format=safetensors")  # fmt: skip
    elif _FORMAT.value == "peft":
        peft.write(out, peft.collect(params, model.adapters), base_model=model.config.name)
    else:
        thesis.write(out, params, session.state.batch_stats, model.adapters, model.tasks)
    print(f"wrote {out}: {model.config.name}, {session.run.method.name}, as {_FORMAT.value}")


if __name__ == "__main__":
    command.run(main)
