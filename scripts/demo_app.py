"""A web page that demonstrates a model: a photograph or the webcam in, faces and distributions out.

  pip install -e '.[app,faces]'
  python scripts/demo_app.py --model=runs/demo/run

Nothing leaves the machine: the page is served to this machine only, without analytics, sharing or
files of other servers. Images are in a temporary folder until the program ends.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from softbio_jax import command
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

For the map, one patch of the face after another is covered. Its colours show how much the predicted
class' probability falls: red patches are evidence for the class, blue ones against it. The map shows
what the model used, not why.
"""
FIND, CROP = "find faces", "the image is one face"
_MAX_UPLOAD, _WAITING = "64mb", 32
CSS = "footer {display: none !important}"


def main(argv: Sequence[str]) -> None:
    del argv
    # The images must also be removed if another program ends this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="softbio-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        gradio = _gradio()
        _check_port(_HOST.value, _PORT.value)  # before the model, which takes longer
        from softbio_jax.inference import predictor

        model = predictor.load(_MODEL.value, device=_DEVICE.value)
        _warm(model)
        page = build(gradio, model)
        print(f"http://{_HOST.value}:{_PORT.value}  (Ctrl-C ends it)", flush=True)
        fonts = ["system-ui", "sans-serif"]  # the fonts of the themes come from a server
        # One image at a time, so that memory does not grow with the number of visitors.
        page.queue(default_concurrency_limit=1, max_size=_WAITING)
        page.launch(
            max_file_size=_MAX_UPLOAD,
            server_name=_HOST.value,
            server_port=_PORT.value,
            share=False,
            quiet=True,
            css=CSS,
            theme=gradio.themes.Soft(font=fonts, font_mono=["monospace"]),
            footer_links=[],
        )


def build(gradio, model):
    """Returns the page as gradio's Blocks."""
    from softbio_jax.inference import crops

    tasks = [task.name for task in model.bundle.tasks]
    with gradio.Blocks(title=f"softbio_jax: {model.bundle.name}", analytics_enabled=False) as page:
        gradio.Markdown(
            f"# {markdown(', '.join(tasks).capitalize())}\n"
            f"The model {markdown(model.bundle.name)}: {model.bundle.variant}, {model.bundle.method}"
        )
        options = {"height": 340, "buttons": ["fullscreen"]}
        with gradio.Row():
            image = gradio.Image(
                label="photograph or webcam",
                sources=["upload", "webcam"],
                elem_id="input",
                type="filepath",  # the file as it is: gradio's own decoder clips 16-bit grey
                image_mode=None,
                **options,
            )
            options["interactive"] = False
            boxed = gradio.Image(label="faces", elem_id="faces", **options)
            covered = gradio.Image(label="occlusion", elem_id="occlusion", **options)
        with gradio.Row():
            with gradio.Column():
                how = gradio.Radio([FIND, CROP], value=FIND, label="the image")
                trained = crops.margin(model.bundle.crops) or 0.0
                margin = gradio.Slider(
                    0, max(0.5, trained), value=trained, step=0.05, label="margin around a face"
                )
                which = gradio.Dropdown([1], value=1, label="face in orange, the largest is 1")
                task = gradio.Radio(tasks, value=tasks[0], label="map of")
                timing = gradio.Markdown(elem_id="timing")
            labels = [gradio.Label(label=name, elem_id=name) for name in tasks]
        gradio.Markdown(NOTES)
        outputs = [which, boxed, *labels, covered, timing]

        def analyse(image, how, margin, task, which=1):
            return _analyse(gradio, model, image, how, margin, task, which or 1)

        calls = {"outputs": outputs, "show_progress": "minimal", "api_visibility": "private"}
        calls["concurrency_id"] = "model"  # one limit for all of them
        given = [image, how, margin, task]
        image.change(analyse, given, **calls)  # another image: its largest face
        how.input(analyse, given, **calls)
        for choice in (which.input, margin.release, task.input):
            choice(analyse, [*given, which], **calls)
    return page


def _analyse(gradio, model, image, how, margin, task, which):
    """Returns the values of all outputs for one image."""
    import numpy as np

    from softbio_jax import coverage
    from softbio_jax.data.decode import UndecodableImage
    from softbio_jax.inference.annotate import annotate
    from softbio_jax.inference.images import face_square, pixels, square
    from softbio_jax.inference.occlusion import occlusion, overlay

    tasks = model.bundle.tasks
    if image is None:
        return [gradio.Dropdown([1], value=1), None, *[None] * len(tasks), None, ""]
    try:
        given, image = image, pixels(image)
    except UserError as error:
        raise gradio.Error(str(error)) from error
    size, start = model.bundle.image_size, time.perf_counter()
    faces = [None] if how == CROP else model.find_faces(image)
    found = time.perf_counter()
    if not faces:
        message = f"No face found. Choose “{CROP}” if it is one."
        return [gradio.Dropdown([1], value=1), image, *[None] * len(tasks), None, message]
    try:
        squares = [
            square(given, size=size) if f is None else face_square(image, f, size=size, margin=margin)
            for f in faces
        ]
    except UndecodableImage as error:
        raise gradio.Error(str(error)) from error
    predictions = [
        dataclasses.replace(prediction, face=face)
        for prediction, face in zip(model.predict_squares(squares), faces, strict=True)
    ]
    predicted = time.perf_counter()
    chosen = min(int(which), len(faces)) - 1
    drops = occlusion(model, squares[chosen])[task]
    covered = time.perf_counter()
    one = predictions[chosen]
    images = model.bundle.training_images
    likeliest = coverage.marked(images, task, one.classes[task])
    lines = [
        f"{1000 * (found - start):.0f} ms to find {len(faces)} face(s), "
        f"{1000 * (predicted - found):.0f} ms to predict, {1000 * (covered - predicted):.0f} ms "
        f"for the map, on {model.device.device_kind}",
        f"largest drop of {task} {likeliest}: {100 * float(np.max(drops)):.0f} points",
    ]
    if one.expected_age is not None:
        lines.insert(0, f"expected age: {one.expected_age:.1f} years")
    lines += [f"{coverage.MARK} {note}" for note in coverage.notes(images)]
    choice = gradio.Dropdown(list(range(1, len(faces) + 1)), value=chosen + 1)
    return [
        choice,
        annotate(image, predictions, chosen=chosen if len(faces) > 1 else None),
        *(
            {coverage.marked(images, t.name, name): p for name, p in one.probabilities[t.name].items()}
            for t in tasks
        ),
        overlay(squares[chosen], drops),
        "\n\n".join(map(markdown, lines)),
    ]


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
            fix="pip install 'softbio-jax[app]'",
        ) from error
    return gradio


if __name__ == "__main__":
    command.run(main)
