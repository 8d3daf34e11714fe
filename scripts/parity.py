"""Compares this port with a reference implementation, stage by stage.

  python scripts/parity.py --variant=PE-Core-T16-384
  python scripts/parity.py --variant=PE-Core-L14-336 --reference=timm --checkpoint=encoder.pt
  python scripts/parity.py --variant=PE-Core-B16-224 --checkout=DIR --size=192x288
  python scripts/parity.py --training --method=dora --cut --dtype=float64 --steps=100

Without --checkpoint, weights are drawn from --seed by parameter name, with query and key rows scaled
by 3 so that position bugs show. Prints the largest absolute difference of every stage beside the
reference's own rounding, which is its distance from float64 on these weights (stored with stored
outputs) and bounds ours; names the first tensor that diverges, and exits with 1 if any does.

With --training, two training runs are compared instead, after every step: this package's and one of timm,
peft and torch, with the same batches and dropout masks (docs/training_parity.md).

The official code is no package: clone facebookresearch/perception_models and name its folder by
--checkout or, once for all, by the environment variable PERCEPTION_MODELS.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
import time
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags
from training_parity import command_line
from training_parity.case import METHODS

from dev import torch_reference
from softbio_jax import command
from softbio_jax.errors import UserError
from softbio_jax.interop import formats, goldens, ladder
from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.reading import locate
from softbio_jax.models.config import TEXT, ComputeConfig, VisionConfig, vision_config

_VARIANT = flags.DEFINE_string(
    "variant", "PE-Core-T16-384", "The variant, by its name here, timm's or the hub's."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Weights in any known layout, or a hub id; drawn from --seed by default."
)
_REFERENCE = flags.DEFINE_enum(
    "reference",
    None,
    ["official", "timm", "goldens"],
    "What to compare with. By default the official code if --checkout names it, else timm if it is"
    " installed, else the stored outputs of the official code.",
)
_CHECKOUT = flags.DEFINE_string(
    "checkout",
    os.environ.get("PERCEPTION_MODELS", ""),
    "Checkout of facebookresearch/perception_models; by default $PERCEPTION_MODELS.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the drawn weights.")
_SIZE = flags.DEFINE_string("size", None, "Pixels, as HEIGHTxWIDTH; those of the variant by default.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    [*ladder.LIMITS, "float64"],
    "The type this port computes in; float64, or else float32, with --training.",
)
_GOLDENS = flags.DEFINE_string(
    "goldens",
    str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens"),
    "Folder of the stored outputs.",
)


_TRAINING = flags.DEFINE_bool("training", False, "Compare training with PyTorch's, step by step.")
_METHOD = flags.DEFINE_enum("method", "lora", list(METHODS), "With --training: the method.")
_RUN = flags.DEFINE_string(
    "run", None, "With --training: a run's directory, whose model, method and optimizer are compared."
)
_STEPS = flags.DEFINE_integer("steps", 20, "With --training: optimizer steps.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "With --training: examples per step.", lower_bound=2)
_CUT = flags.DEFINE_bool("cut", False, "With --training: 5 blocks of the variant, images of 48 pixels.")
_UNCERTAINTY = flags.DEFINE_bool("uncertainty", True, "With --training: whether log-variances are learned.")
_BATCHES = flags.DEFINE_string("batches", None, "With --training: a file that keeps the augmented batches.")
_AS_TORCH = flags.DEFINE_multi_string(
    "as_torch",
    [],
    "With --training: a switch by which the twin does as PyTorch, see docs/training_parity.md.",
)
_SAVE = flags.DEFINE_string("save", None, "With --training: a JSON file that the comparison is added to.")

_READERS = {"checkout": ["--reference=official"], "goldens": ["--reference=goldens"]}
_OF_TRAINING = ("method", "run", "steps", "batch", "cut", "uncertainty", "batches", "as_torch", "save")
_READERS |= {flag: ["--training"] for flag in _OF_TRAINING}
_DRAWN = {"seed": ["no --checkpoint"]}
_TYPES = {True: ("float32", "float64"), False: tuple(ladder.LIMITS)}


def main(argv: Sequence[str]) -> int:
    del argv
    start = time.monotonic()
    config = vision_config(_VARIANT.value)
    if _DTYPE.value not in _TYPES[_TRAINING.value]:
        raise UserError(
            "no comparison in this type",
            where=f"--dtype={_DTYPE.value}",
            expected=" or ".join(_TYPES[_TRAINING.value]),
            found=f"{'--training' if _TRAINING.value else 'no --training'}",
            fix="use one of them",
        )
    if _TRAINING.value:
        return _training(config)
    reference = _REFERENCE.value or _default_reference(config)
    if reference == "official" and config.family != "perception":
        raise UserError(
            "no official code of this family here",
            where=f"--reference=official --variant={config.name}",
            expected="timm or goldens",
            found="official",
            fix="use --reference=timm",
        )
    command.refuse_ignored(f"--reference={reference}", _READERS)
    command.refuse_ignored("--checkpoint" if _CHECKPOINT.value else "no --checkpoint", _DRAWN)
    height, width = _size(config)
    print(f"{config.name} at {height}x{width}, {_DTYPE.value}, against {reference}", flush=True)
    if reference == "goldens":
        ours, theirs, noise = _against_goldens(config, (height, width))
    else:
        ours, theirs, noise = _live(reference, config, (height, width))
    limits = ladder.LIMITS[_DTYPE.value]
    first = _print_ladder(ladder.compare(ours, theirs, limits=limits, noise=noise))
    print(f"{time.monotonic() - start:.0f} s")
    if first:
        print(f"first to diverge: {first}")
        return 1
    print("every stage agrees")
    return 0


def _training(config: VisionConfig) -> int:
    command.refuse_ignored(
        "--training", dict.fromkeys(("reference", "checkout", "goldens"), ("no --training",))
    )
    height, width = _size(config) if _SIZE.value else (0, 0)
    if height != width:
        raise UserError(
            "training is compared on square images",
            where="--size",
            expected="HEIGHT = WIDTH",
            found=_SIZE.value,
            fix=f"such as --size={height}x{height}",
        )
    if _RUN.value:
        command.refuse_ignored("--run", dict.fromkeys(("method", "uncertainty", "variant"), ("no --run",)))
    options = command_line.Options(
        variant=config.name,
        checkpoint=_CHECKPOINT.value or "",
        image_size=height,
        dtype=_DTYPE.value,
        seed=_SEED.value,
        method=_METHOD.value,
        run=_RUN.value,
        steps=_STEPS.value,
        batch=_BATCH.value,
        cut=_CUT.value,
        uncertainty=_UNCERTAINTY.value,
        batches=_BATCHES.value,
        as_torch=_AS_TORCH.value,
        save=_SAVE.value,
    )
    return command_line.main(options)


def _default_reference(config: VisionConfig) -> str:
    if _CHECKOUT.value and config.family == "perception":
        return "official"
    return "timm" if importlib.util.find_spec("timm") else "goldens"


def _size(config: VisionConfig) -> tuple[int, int]:
    if _SIZE.value is None:
        return config.image_size, config.image_size
    match = re.fullmatch(r"(\d+)x(\d+)", _SIZE.value)
    if not match or min(map(int, match.groups())) < config.patch_size:
        raise UserError(
            "not an image size",
            where="--size",
            expected=f"HEIGHTxWIDTH of at least {config.patch_size} pixels",
            found=repr(_SIZE.value),
            fix="such as --size=320x448",
        )
    return int(match[1]), int(match[2])


def _against_goldens(config: VisionConfig, size: tuple[int, int]) -> tuple[dict, dict, dict | None]:
    """Returns our rungs, the stored ones, and the stored rounding, which is that of float32."""
    if _CHECKPOINT.value or _SEED.value:
        raise UserError(
            "stored outputs are of drawn weights",
            where="--reference=goldens",
            expected="neither --checkpoint nor --seed",
            found="one of them",
            fix="use --reference=official or timm",
        )
    text = config.name in TEXT and size == (config.image_size,) * 2
    case = goldens.Case(variant=config.name, size=size, text=text)
    stored = goldens.load(_GOLDENS.value, case)
    rungs = _ours(config, _state(config, text=text), case.images())
    noise = goldens.rounding(_GOLDENS.value, case) if _DTYPE.value == "float32" else None
    return goldens.sampled(rungs), stored, noise


def _live(reference: str, config: VisionConfig, size: tuple[int, int]) -> tuple[dict, dict, dict]:
    """Returns our rungs, the reference's in float32, and the rounding of the reference."""
    images = named_uniform("image", (1, *size, 3))
    state = _state(config, text=reference == "official" and config.name in TEXT)
    vision = {key: array for key, array in state.items() if key.startswith("visual.")}
    if reference == "timm":
        # Away from the native resolution the two differ by design; compare like with like.
        config, state = dataclasses.replace(config, resample="timm"), vision
    theirs = {
        dtype: _theirs(reference, config, state, images, dtype=dtype)
        for dtype in {"float64", "float32", _DTYPE.value}
    }
    noise = ladder.rounding(theirs[_DTYPE.value], theirs["float64"])
    return _ours(config, state, images), theirs["float32"], noise


def _theirs(
    reference: str, config: VisionConfig, state: dict[str, np.ndarray], images: np.ndarray, *, dtype: str
) -> dict[str, np.ndarray]:
    vision = {key: array for key, array in state.items() if key.startswith("visual.")}
    if reference == "timm":
        return torch_reference.timm_rungs(config, vision, images, dtype=dtype)
    rungs = torch_reference.official_rungs(_CHECKOUT.value, config, vision, images, dtype=dtype)
    if len(state) > len(vision):
        text = TEXT[config.name]
        ids = goldens.text_ids(text.context)
        rungs |= torch_reference.official_text_rungs(
            _CHECKOUT.value, text, state, ids, rungs["embedding"], dtype=dtype
        )
    return rungs


def _state(config: VisionConfig, *, text: bool) -> dict[str, np.ndarray]:
    if _CHECKPOINT.value:
        state = formats.read(locate.resolve(_CHECKPOINT.value), config=config)
        return {key: array.astype(np.float32) for key, array in state.items()}
    return named_state(formats.official_shapes(config.name, text=text), seed=_SEED.value)


def _ours(config: VisionConfig, state: dict[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
    rungs = ladder.vision_rungs(config, state, images, compute=ComputeConfig(dtype=_DTYPE.value))
    if _DTYPE.value == "float32" and "logit_scale" in state:
        text = TEXT[config.name]
        ids = goldens.text_ids(text.context)
        rungs |= ladder.text_rungs(text, state, ids, rungs["embedding"])
    return rungs


def _print_ladder(rungs: Iterable[ladder.Rung]) -> str:
    """Prints one line per stage; returns the name of the first that diverges, or an empty string."""
    first = ""
    print(f"{'stage':<22}{'largest |d|':>12}{'reference':>11}{'allowed':>10}{'scale':>10}")
    for rung in rungs:
        own = "-" if rung.noise is None else f"{rung.noise:.2e}"
        first = first or ("" if rung.holds else rung.name)
        note = "" if rung.holds else "  DIVERGES"
        print(
            f"{rung.name:<22}{rung.difference:>12.2e}{own:>11}{rung.limit:>10.1e}{rung.scale:>10.3g}{note}",
            flush=True,
        )
    return first


if __name__ == "__main__":
    command.run(main)
