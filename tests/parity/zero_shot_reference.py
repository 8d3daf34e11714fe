"""Zero-shot logits of the official code, with weights drawn by name.

  python tests/parity/zero_shot_reference.py CHECKOUT   (needs torch, ftfy and regex)

writes the golden that tests/evaluation/test_zero_shot.py compares with. It uses nothing of this
package but the prompts' texts and the weights' generator: tokenizer, preprocessing and both
towers are those of the checkout of facebookresearch/perception_models.
"""

import importlib
import io
import pathlib
import sys

import numpy as np
from PIL import Image

from softbio_jax.evaluation.zero_shot.prompts import load_prompts
from softbio_jax.interop.goldens import named_state

VARIANT = "PE-Core-T16-384"
GOLDEN = pathlib.Path(__file__).parent.parent / "evaluation" / "goldens" / f"zero_shot_{VARIANT}.npz"


def drawn_images():
    """Three PNG pictures of integer patterns, of sizes that shrink, grow and keep."""
    pictures = []
    for height, width, step in ((501, 640, 3), (200, 131, 7), (384, 384, 11)):
        y, x = np.mgrid[:height, :width]
        channels = [(x * step + y * (k + 1) + (x * y) // (37 + 13 * k)) % 256 for k in range(3)]
        blocks = 96 * (((x // 41) + (y // 29)) % 2)
        picture = np.stack([(c // 2 + blocks) % 256 for c in channels], axis=-1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        pictures.append(buffer.getvalue())
    return pictures


def official_logits(checkout, images, prompts):
    """Returns task -> (B, C) logits for encoded images."""
    import torch
    import torch.nn.functional as F

    sys.path.insert(0, str(checkout))
    try:
        pe, transforms, tokenizer = (
            importlib.import_module(f"core.vision_encoder.{name}")
            for name in ("pe", "transforms", "tokenizer")
        )
    finally:
        sys.path.remove(str(checkout))
    model = pe.CLIP.from_config(VARIANT).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = named_state(shapes)
    model.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    prepare = transforms.get_image_transform(model.image_size)
    tokenize = tokenizer.SimpleTokenizer(context_length=model.context_length)
    with torch.inference_mode():
        pixels = torch.stack([prepare(Image.open(io.BytesIO(data))) for data in images])
        image = model.encode_image(pixels, normalize=True)
        logits = {}
        for task, classes in prompts.tasks.items():
            means = [
                model.encode_text(tokenize(list(texts)), normalize=True).mean(dim=0) for texts in classes
            ]
            text = F.normalize(torch.stack(means), dim=-1)
            logits[task] = (model.logit_scale.exp() * image @ text.T).numpy()
    return logits


if __name__ == "__main__":
    arrays = {}
    for name in ("thesis", "fer2013"):
        found = official_logits(sys.argv[1], drawn_images(), load_prompts(name))
        arrays |= {f"{name}/{task}": values for task, values in found.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
