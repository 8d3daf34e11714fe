"""What a cell shows holds all of its content: no file beside the notebook, and no markup of names."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from softbio_jax import notebook
from softbio_jax.inference.predictor import Prediction

NAME = "<img src=x onerror=y>"


def prediction(name="happy", **values):
    probabilities = {"gender": {"male": 0.25, "female": 0.75}, "emotion": {name: 0.995, "sad": 0.005}}
    classes = {"gender": "female", "emotion": name}
    return Prediction(classes=classes, probabilities=probabilities, expected_age=None, **values)


class Parsed(HTMLParser):
    """The tags, the attributes and the words of a page."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        self.words.append(data)


def test_images_are_beside_their_class_and_probability_per_task():
    noise = np.random.default_rng(0).integers(0, 255, (2, 500, 400, 3), np.uint8)
    shown = notebook.show_predictions(noise, [prediction(), prediction(untrained=("emotion",))])
    page = Parsed(shown._repr_html_())
    words = [word for word in page.words if word.strip() and "{" not in word]
    assert words == [
        *("gender", "female", "75 %", "emotion", "happy", "100 %"),
        *("gender", "female", "75 %", "emotion", "happy ‡", "100 %"),
    ]
    sources = [found["src"] for tag, found in zip(page.tags, page.attributes, strict=True) if tag == "img"]
    assert len(sources) == 2 and sources[0] != sources[1]
    data = base64.b64decode(sources[0].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (269, 336)  # the shape of the image, smaller
    assert repr(shown) == "0: female, happy\n1: female, happy"


def test_names_of_classes_are_text():
    markup = notebook.show_predictions([np.zeros((8, 8, 3), np.uint8)], [prediction(NAME)])._repr_html_()
    assert Parsed(markup).tags.count("img") == 1 and NAME in Parsed(markup).words


def test_an_image_without_its_prediction_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        notebook.show_predictions(np.zeros((2, 8, 8, 3), np.uint8), [prediction()])


def test_a_report_is_in_the_frame_and_runs_nothing(tmp_path):
    page = '<!doctype html><html><head><title>"T" & co</title></head><body><a href="#a">é</a></body></html>'
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    shown = notebook.show_report(tmp_path / "report.html", height=300)
    (frame,) = Parsed(shown._repr_html_()).attributes
    assert frame["sandbox"] == "" and "height: 300px" in frame["style"]
    assert frame["srcdoc"].replace('<base href="about:srcdoc">', "") == page
    assert re.search(r"<head><base", frame["srcdoc"])  # before any link
    assert repr(shown) == str(tmp_path / "report.html")
