"""Evaluates a trained run, or a zero-shot classifier from an image and a text encoder, on test sets.

python scripts/evaluate.py --workdir=runs/demo/run [--latency]
python scripts/evaluate.py --workdir=runs/demo/run --test=synthetic_raf_db/test
python scripts/evaluate.py --workdir=runs/demo/run --robustness [--baseline=OTHER_RUN]
python scripts/evaluate.py --zero_shot --workdir=runs/zs --checkpoint=PE-Core-L14-336.pt \
    --variant=PE-Core-L14-336 --data=data/prepared --test=utkface/test,fairface/val
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from softbio_jax import command
from softbio_jax.train import huge_pages

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A run directory; with --zero_shot, the folder to write.", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder for eval/; default: the run directory, with --test a folder in its tests/."
)
_DATA = flags.DEFINE_string("data", None, "Root of the prepared data sets; default: that of the run.")
_LATENCY = flags.DEFINE_bool(
    "latency", False, "Also time the forward pass, and add latency and throughput to run.json."
)
_ROBUSTNESS = flags.DEFINE_bool(
    "robustness",
    False,
    "Measure the test sets under corruptions instead (blur, JPEG, noise, low light, masks, sunglasses, "
    "rotation, low resolution) and write robustness/.",
)
_BASELINE = flags.DEFINE_string(
    "baseline", None, "With --robustness: a run measured before, to whose errors this run's are relative."
)
_ZERO_SHOT = flags.DEFINE_bool("zero_shot", False, "Classify by the nearest prompt.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Zero-shot: file or hub id with both encoders.")
_VARIANT = flags.DEFINE_string("variant", "PE-Core-L14-336", "Zero-shot: the checkpoint's variant.")
_TEST = flags.DEFINE_list("test", [], "Test sets, NAME/SPLIT under --data; default: those of the run.")
_PROMPTS = flags.DEFINE_string("prompts", "thesis", "Zero-shot: a registered set or a JSON file.")
_NOT_AVERAGED = flags.DEFINE_list(
    "not_averaged", [], "Zero-shot: pairs SET:TASK to exclude from the averages; a run has config.data."
)
_SYNTHETIC = flags.DEFINE_list(
    "synthetic_labels", [], "Zero-shot: pairs SET:TASK with labels of a model, to exclude and mark."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "Zero-shot: tokenizer.json of CLIP for custom prompts, if no tokenizer is installed; of SigLIP 2.",
)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Zero-shot: images per batch, over all devices.")


_RUN, _CORRUPTED, _PROMPTED = "a trained run", "--robustness", "--zero_shot"
_READERS = {
    "latency": (_RUN,),
    "robustness": (_RUN, _CORRUPTED),
    "baseline": (_CORRUPTED,),
    **dict.fromkeys(("checkpoint", "variant", "prompts", "not_averaged"), (_PROMPTED,)),
    **dict.fromkeys(("synthetic_labels", "tokenizer", "batch_size"), (_PROMPTED,)),
}


def main(argv: Sequence[str]) -> None:
    del argv
    command.refuse_ignored(
        _PROMPTED if _ZERO_SHOT.value else _CORRUPTED if _ROBUSTNESS.value else _RUN, _READERS
    )
    if _ROBUSTNESS.value and not _ZERO_SHOT.value:
        from softbio_jax.evaluation.robustness import measure_run

        measure_run(
            _WORKDIR.value, out=_OUT.value, data_root=_DATA.value, tests=_TEST.value, baseline=_BASELINE.value
        )
        return
    if not _ZERO_SHOT.value:
        from softbio_jax.evaluation.evaluate import evaluate_run

        evaluate_run(
            _WORKDIR.value, out=_OUT.value, data_root=_DATA.value, tests=_TEST.value, timed=_LATENCY.value
        )
        return
    from softbio_jax.errors import UserError
    from softbio_jax.evaluation.zero_shot.evaluate import evaluate_zero_shot
    from softbio_jax.evaluation.zero_shot.prompts import load_prompts
    from softbio_jax.models.config import ComputeConfig
    from softbio_jax.runs.data import open_tests

    for name, value in (("checkpoint", _CHECKPOINT.value), ("data", _DATA.value), ("test", _TEST.value)):
        if not value:
            raise UserError(
                "missing flag",
                where=f"--{name}",
                expected="a value with --zero_shot",
                found="none",
                fix=f"add --{name}=...",
            )
    from softbio_jax.tasks import TASKS

    rules: dict[str, dict[str, tuple[str, ...]]] = {"not_averaged": {}, "synthetic_labels": {}}
    for name, pairs in (("not_averaged", _NOT_AVERAGED.value), ("synthetic_labels", _SYNTHETIC.value)):
        for pair in pairs:
            test_set, _, task = pair.partition(":")
            if task not in TASKS:
                raise UserError(
                    "not a test set and a task",
                    where=f"--{name}",
                    expected=f"SET:TASK with a task of {', '.join(TASKS)}",
                    found=pair,
                    fix="write it as in rafdb:gender",
                )
            rules[name][test_set] = (*rules[name].get(test_set, ()), task)
    evaluate_zero_shot(
        _CHECKPOINT.value,
        open_tests(_DATA.value, _TEST.value),
        variant=_VARIANT.value,
        prompts=load_prompts(_PROMPTS.value),
        out=pathlib.Path(_OUT.value or _WORKDIR.value),
        batch_size=_BATCH.value,
        compute=ComputeConfig(matmul_precision="highest"),
        tokenizer=_TOKENIZER.value,
        **rules,
    )


if __name__ == "__main__":
    huge_pages.restart()
    command.run(main)
