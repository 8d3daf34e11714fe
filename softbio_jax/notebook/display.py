"""Predictions and reports as results of a notebook's cell, in Jupyter, Colab and Kaggle alike."""

from __future__ import annotations

import base64
import html
import io
import os
import pathlib
from collections.abc import Sequence

from softbio_jax import coverage
from softbio_jax.console import percent
from softbio_jax.inference import images as images_lib
from softbio_jax.inference.images import ImageLike
from softbio_jax.inference.predictor import Prediction

_SIDE = 168  # pixels of a shown image
_STYLE = """<style>
.softbio {display: flex; flex-wrap: wrap; gap: 16px; font: 14px/1.4 system-ui, sans-serif}
.softbio figure {margin: 0; width: 168px}
.softbio img {width: 168px; height: 168px; object-fit: contain; background: #8884; border-radius: 4px}
.softbio dl {display: grid; grid-template-columns: auto 1fr auto; gap: 0 8px; margin: 4px 0 0}
.softbio dt, .softbio dd {margin: 0}
.softbio dt {opacity: .7}
.softbio .p {text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums}
</style>"""


class Shown:
    """HTML that a notebook shows as the result of a cell.

    Args:
      markup: what is shown.
      text: what stands for it where no HTML is shown.
    """

    def __init__(self, markup: str, text: str):
        self._markup, self._text = markup, text

    def _repr_html_(self) -> str:
        return self._markup

    def __repr__(self) -> str:
        return self._text


def show_predictions(images: Sequence[ImageLike], predictions: Sequence[Prediction]) -> Shown:
    """Returns images side by side, each with its class and probability per task.

    Args:
      images: see `Predictor.predict`.
      predictions: of each image, in their order.

    Raises:
      ValueError: not as many predictions as images.
      UserError: something that is not an image.
    """
    figures, lines = [], []
    for number, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        rows = []
        for task, found in prediction.classes.items():
            mark = f" {coverage.MARK}" if task in prediction.untrained else ""
            share = f"{percent(prediction.probabilities[task][found], 0)} %"
            cells = (html.escape(task), html.escape(found + mark), share)
            rows.append('<dt>{}</dt><dd>{}</dd><dd class="p">{}</dd>'.format(*cells))
        alt = html.escape(f"image {number}")
        source = f"data:image/png;base64,{_png(image)}"
        figures.append(f'<figure><img alt="{alt}" src="{source}"><dl>{"".join(rows)}</dl></figure>')
        lines.append(f"{number}: " + ", ".join(prediction.classes.values()))
    return Shown(f'{_STYLE}<div class="softbio">{"".join(figures)}</div>', "\n".join(lines))


def show_report(path: str | os.PathLike[str], *, height: int = 640) -> Shown:
    """Returns a report.html in a frame, which is part of the notebook and needs no file beside it.

    Args:
      path: the file that `evaluation.report.write` made.
      height: of the frame in pixels.
    """
    file = pathlib.Path(path)
    # Links to its sections lead to the frame itself, not to the notebook around it.
    page = file.read_text(encoding="utf-8").replace("<head>", '<head><base href="about:srcdoc">', 1)
    frame = (
        f'<iframe title="{html.escape(file.name)}" sandbox="" srcdoc="{html.escape(page)}" '
        f'style="width: 100%; height: {height}px; border: 1px solid #8888; background: white"></iframe>'
    )
    return Shown(frame, str(file))


def _png(image: ImageLike) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    small = Image.fromarray(images_lib.pixels(image))
    small.thumbnail((2 * _SIDE, 2 * _SIDE))
    small.save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
