"""The preprocessing of an exported model in words and formulas: a section of its config.json."""

from __future__ import annotations

import types
from typing import Any, Literal

import numpy as np

from softbio_jax.inference import crops
from softbio_jax.inference.reference import mistakes

# What a reader of a saved model checks.
PREPROCESSING: dict[str, Any] = {
    "colours": "RGB",
    "resize": "squash to a square: area averages when shrinking more than 1.5 times, else bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
_DECODING = {
    "orientation": "first of all, rotate and flip as the EXIF orientation says (tag 274, values 1 to 8)",
    "frame": "the first one of a file with several",
    "channels": "red, green, blue; OpenCV's imread gives blue, green, red",
    "grey": "repeated three times; of 16 bits: round(v / 257) first",
    "colour_16_bit": "the high byte of each value",
    "alpha": "dropped: the stored colours, not blended with a background",
    "palette": "looked up, its transparency dropped",
    "cmyk": "each colour (255 - c) (255 - k) / 255; in JPEG files of Adobe c and k are stored inverted",
    "profiles": "ICC profiles and gamma are ignored",
    "jpeg": "this library decodes a JPEG without rotation at n / 8 of its size, with the smallest n from 1"
    " to 8 that keeps both sides at least 2 S; a decoder without that differs by a few levels",
}
_FACES = {
    "image": "used whole: it is a crop of one face, like those that the model was trained on",
    "margin": "that of the training crops, such as 0.25 or 1.25 in the names of FairFace's archives; this"
    " library's predict_faces adds that of `training` below if it is there, else 0",
    "square": "of a box x0, y0, x1, y1 truncated to integers: side = max(x1 - x0, y1 - y0), left = x0 +"
    " (x1 - x0) // 2 - side // 2, top alike; then round(margin side) more on every side; black outside"
    " the image",
}
_RESIZING = {
    "kept": "an image of S x S pixels",
    "area": "if max(H, W) > 1.5 S. Rows and columns apart, an axis of n >= S pixels: output i is the mean of"
    " the input over [i n / S, (i + 1) n / S), each pixel weighted by its part in there",
    "area_enlarging": "if max(H, W) > 1.5 S and one axis has n < S pixels, on both axes instead:"
    " j = floor(i n / S), f = (i + 1) - (j + 1) S / n, f = 0 if f <= 0 else f - floor(f); output i is"
    " (1 - f) x[j] + f x[j + 1]",
    "bilinear": "otherwise, without antialiasing: output i is read at (i + 0.5) n / S - 0.5, at least 0 and"
    " at most n - 1, between its two neighbours",
    "rounding": "once, after both axes, to the nearest of 0..255; results may differ by one level",
}


def describe(
    size: int,
    *,
    normalised: Literal["inside", "outside"] = "inside",
    layout: Literal["NHWC", "NCHW"] = "NHWC",
    training: crops.Crops = types.MappingProxyType({}),
    scale: mistakes.Scale = mistakes.SIGNED,
) -> dict[str, Any]:
    """Returns how an image becomes the input of a model: decoding, crop, resizing, values, layout.

    Args:
      size: the side S in pixels.
      normalised: whether the model normalises (then its input is uint8), or the caller does.
      layout: of the input.
      training: how the training images were cut; empty where unknown.
      scale: of the values where the caller normalises.
    """
    inside = normalised == "inside"
    own: dict[str, Any] = {}
    low, high = [-1.0, 1.0]
    if scale is not mistakes.SIGNED:
        own = {"mean": list(scale.mean), "std": list(scale.std)}
        ends = [(np.array(end) - scale.mean) / scale.std for end in (0.0, 1.0)]
        low, high = float(ends[0].min()), float(ends[1].max())
    return {
        **PREPROCESSING,
        **own,
        "normalisation": "inside the model" if inside else "by the caller: (v / 255 - mean) / std",
        "input": {
            "size": [size, size],
            "layout": layout,
            "type": "uint8" if inside else "float32",
            "range": [0, 255] if inside else [low, high],
        },
        "order": ["decode", "crop", "resize", "normalise"],
        "decode": _DECODING,
        "crop": _FACES | ({crops.KEY: dict(training)} if training else {}),
        "resizing": {"S": size, "aspect_ratio": "not kept", **_RESIZING},
        "reference": "reference.jpg becomes the tensor and the logits of reference.json",
    }
