"""A web page that demonstrates a model: a photograph or the webcam in, faces and distributions out.

  pip install 'softbio-jax[app,faces]'
  python scripts/demo_app.py --model=runs/demo/run

Nothing leaves the machine: the page is served to this machine only, without analytics, sharing or
files of other servers. Images are in a temporary folder until the program ends.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from softbio_jax import command
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.escaping import markdown

_MODEL = flags.DEFINE_string("model", None, "A run, a folder with a saved model, or a hub id.", required=True)
_PORT = flags.DEFINE_integer("port", 7860, "Port of the page.")
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; with another one, other machines can connect."
)
_DEVICE = flags.DEFINE_string("device", None, "Such as cpu, gpu or gpu:1; default: JAX's first.")

NOTES = """\
**What leaves this machine: nothing.** The program runs here, loads nothing from other servers and
sends nothing to any. Images are in a temporary folder until it ends.

Age is apparent age, gender is what annotators perceived and not identity, emotion is the displayed
expression and not a felt state. Not for access control, hiring, policing or age gates; inferring
emotions at work or in education is prohibited in the EU.

For the map, one patch of the face after another is covered. The map shows what the model used, not why.
"""
FIND, CROP = "find faces", "the image is one face"
EMPTY = "Choose a photograph, or one of the drawn examples."
_EXAMPLES = (("synthetic_fairface", 4), ("synthetic_raf_db", 3))  # drawn when the page starts
_MAX_UPLOAD, _WAITING = "64mb", 32
_CSS = """
footer {display: none !important}
#title h1 {font-size: 24px; margin: 0}
#title p, #notes p, #timing p {font-size: 15px; line-height: 1.5}
label span, .block-label, legend, input, select {font-size: 15px !important}
#examples img {border-radius: 4px}
"""


def main(argv: Sequence[str]) -> None:
    del argv
    # The images must also be removed if another program ends this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    with tempfile.TemporaryDirectory(prefix="softbio-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        console.say("starting: importing gradio")
        gradio = _gradio()
        _check_port(_HOST.value, _PORT.value)  # before the model, which takes longer
        from softbio_jax.inference import answers, predictor

        console.say(f"loading the model {_MODEL.value}")
        model = predictor.load(_MODEL.value, device=_DEVICE.value)
        accuracies = answers.measured(_MODEL.value)
        console.say(f"compiling it for {model.device.device_kind}")
        _warm(model)
        page = build(gradio, model, accuracies, examples=_draw_examples(pathlib.Path(folder)))
        console.say(f"ready: http://{_HOST.value}:{_PORT.value}  (Ctrl-C ends it)")
        fonts = ["system-ui", "sans-serif"]  # the fonts of the themes come from a server
        # One image at a time, so that memory does not grow with the number of visitors.
        page.queue(default_concurrency_limit=1, max_size=_WAITING)
        page.launch(
            max_file_size=_MAX_UPLOAD,
            server_name=_HOST.value,
            server_port=_PORT.value,
            share=False,
            quiet=True,
            css=_CSS + answers.STYLE,
            theme=gradio.themes.Soft(font=fonts, font_mono=["monospace"], text_size="lg"),
            footer_links=[],
        )


def build(gradio, model, accuracies, *, examples):
    """Returns the page as gradio's Blocks.

    Args:
      accuracies: see `answers.measured`.
      examples: paths of images that a click submits.
    """
    from softbio_jax.inference import crops

    tasks = [task.name for task in model.bundle.tasks]
    with gradio.Blocks(title=f"softbio_jax: {model.bundle.name}", analytics_enabled=False) as page:
        gradio.Markdown(
            f"# {markdown(', '.join(tasks).capitalize())}\n"
            f"The model {markdown(model.bundle.name)}: {model.bundle.variant}, {model.bundle.method}",
            elem_id="title",
        )
        options = {"height": 340, "buttons": ["fullscreen"]}
        with gradio.Row():
            with gradio.Column(min_width=320):
                image = gradio.Image(
                    label="photograph or webcam",
                    sources=["upload", "webcam"],
                    elem_id="input",
                    type="filepath",  # the file as it is: gradio's own decoder clips 16-bit grey
                    image_mode=None,
                    **options,
                )
                gradio.Examples(examples, image, label="drawn examples", elem_id="examples")
            options["interactive"] = False
            with gradio.Column(min_width=320):
                answer = gradio.HTML(EMPTY, elem_id="answer", padding=True)
                boxed = gradio.Image(label="faces", elem_id="faces", **options)
                which = gradio.Dropdown([1], value=1, label="face in orange, the largest is 1", visible=False)
        shares = gradio.HTML(elem_id="distributions", padding=True)
        with gradio.Row():
            with gradio.Column(min_width=320):
                covered = gradio.Image(label="occlusion map", elem_id="occlusion", **options)
                legend = gradio.HTML(elem_id="legend", padding=True)
            with gradio.Column(min_width=320):
                task = gradio.Radio(tasks, value=tasks[0], label="map of")
                how = gradio.Radio([FIND, CROP], value=FIND, label="the image")
                trained = crops.margin(model.bundle.crops) or 0.0
                margin = gradio.Slider(
                    0, max(0.5, trained), value=trained, step=0.05, label="margin around a face"
                )
                timing = gradio.Markdown(elem_id="timing")
        gradio.Markdown(NOTES, elem_id="notes")
        outputs = [which, answer, boxed, shares, covered, legend, timing]

        def analyse(image, how, margin, task, which=1):
            return _analyse(gradio, model, accuracies, image, how, margin, task, which or 1)

        calls = {"outputs": outputs, "show_progress": "minimal", "api_visibility": "private"}
        calls["concurrency_id"] = "model"  # one limit for all of them
        given = [image, how, margin, task]
        image.change(analyse, given, **calls)  # another image: its largest face
        how.input(analyse, given, **calls)
        for choice in (which.input, margin.release, task.input):
            choice(analyse, [*given, which], **calls)
    return page


def _analyse(gradio, model, accuracies, image, how, margin, task, which):
    """Returns the values of all outputs for one image."""
    import numpy as np

    from softbio_jax import coverage
    from softbio_jax.data.decode import UndecodableImage
    from softbio_jax.inference import answers, occlusion
    from softbio_jax.inference.annotate import annotate
    from softbio_jax.inference.images import face_square, pixels, square

    def nothing(message, image=None):
        return [gradio.Dropdown([1], value=1, visible=False), message, image, "", None, "", ""]

    if image is None:
        return nothing(EMPTY)
    size, start = model.bundle.image_size, time.perf_counter()
    try:
        given, image = image, pixels(image)
        faces = [None] if how == CROP else model.find_faces(image)
        found = time.perf_counter()
        squares = [
            square(given, size=size) if f is None else face_square(image, f, size=size, margin=margin)
            for f in faces
        ]
    except (UserError, UndecodableImage) as error:
        raise gradio.Error(str(error)) from error
    if not faces:
        return nothing(f"No face found. Choose “{CROP}” if it is one.", image)
    predictions = [
        dataclasses.replace(prediction, face=face)
        for prediction, face in zip(model.predict_squares(squares), faces, strict=True)
    ]
    predicted = time.perf_counter()
    chosen = min(int(which), len(faces)) - 1
    drops = occlusion.occlusion(model, squares[chosen])[task]
    covered = time.perf_counter()
    one = predictions[chosen]
    images = model.bundle.training_images
    likeliest = coverage.marked(images, task, one.classes[task])
    lines = [
        f"{1000 * (found - start):.0f} ms to find {len(faces)} face(s), "
        f"{1000 * (predicted - found):.0f} ms to predict, {1000 * (covered - predicted):.0f} ms "
        f"for the map, on {model.device.device_kind}"
    ]
    lines += [f"{coverage.MARK} {note}" for note in coverage.notes(images)]
    return [
        gradio.Dropdown(list(range(1, len(faces) + 1)), value=chosen + 1, visible=len(faces) > 1),
        answers.answer(one, accuracies, images),
        annotate(image, predictions, chosen=chosen if len(faces) > 1 else None),
        answers.distributions(model.bundle.tasks, one, images),
        occlusion.overlay(squares[chosen], drops),
        answers.legend(task, likeliest, float(np.max(drops)), scale=occlusion.scale(drops)),
        "\n\n".join(map(markdown, lines)),
    ]


def _draw_examples(folder):
    """Returns the paths of two faces that are drawn now."""
    from PIL import Image

    from softbio_jax.data.drawing import synthetic

    paths = []
    for number, (source, row) in enumerate(_EXAMPLES, 1):
        face = synthetic.draw(source, "train", row, size=320, seed=5).image
        page = Image.new("RGB", (440, 440), (128, 128, 128))
        page.paste(Image.fromarray(face), (60, 60))
        paths.append(str(folder / f"example_{number}.png"))
        page.save(paths[-1])
    return paths


def _warm(model):
    """Compiles the batch sizes of a few faces and a map, so that no image has to wait for them."""
    import numpy as np

    size = model.bundle.image_size
    for count in (1, 2, 4, 64):
        model.logits(np.zeros((count, size, size, 3), np.uint8))


def _check_port(host, port):
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            "cannot listen there",
            where="--host, --port",
            expected="an address of this machine and a free port",
            found=f"{host}:{port}: {error.strerror}",
            fix=f"end what listens there, or pass --port={port + 1}",
        ) from error


def _gradio():
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            "gradio is needed for the page",
            where="scripts/demo_app.py",
            expected="the package",
            found=str(error),
            fix="pip install 'softbio-jax[app,faces]'",
        ) from error
    return gradio


if __name__ == "__main__":
    command.run(main)
