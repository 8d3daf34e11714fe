"""Makes assets/tiny_demo.safetensors, the demo's frozen encoder: it regresses drawing parameters.

python scripts/dev/pretrain_tiny.py --out=assets/tiny_demo.safetensors
"""

from collections.abc import Sequence

from absl import flags

from softbio_jax import command

_OUT = flags.DEFINE_string("out", None, "The safetensors file to write.", required=True)
_FACES = flags.DEFINE_integer("faces", 40_000, "Rendered faces, none of them in the composite.")
_STEPS = flags.DEFINE_integer("steps", 4000, "Optimizer steps of 64 faces.")


def main(argv: Sequence[str]) -> None:
    del argv
    import jax
    import numpy as np

    from softbio_jax.checkpoints.pretrained import save_pretrained
    from softbio_jax.console import Console
    from softbio_jax.data.drawing import synthetic
    from softbio_jax.models.config import vision_config
    from softbio_jax.thesis.pretraining import pretrain

    config = vision_config("tiny-demo")
    rows = synthetic.pretext_rows(size=config.image_size, seed=1, count=_FACES.value)
    images, targets = (np.stack(part) for part in zip(*rows, strict=True))
    console = Console()
    console.say(f"drew {len(images):,} faces with {targets.shape[1]} parameters each")
    params, loss = pretrain(
        config, images, targets, steps=_STEPS.value, batch_size=64, rate=2e-3, seed=0, console=console
    )
    # Half the size; the rounding error is far below that of the pretext task.
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)
    save_pretrained(_OUT.value, half, variant=config.name, pretext="drawing parameters", error=f"{loss:.3f}")


if __name__ == "__main__":
    command.run(main)
