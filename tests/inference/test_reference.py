"""The reference beside an export: config.json suffices to reproduce it, and mistakes are named."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from softbio_jax.data import decode
from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import reference
from softbio_jax.inference.export import onnx as onnx_lib
from softbio_jax.inference.export import stablehlo, torch_reference
from softbio_jax.inference.reference import standalone
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from tests.inference.test_bundle import bundle_of
from tests.structure import ROOT


@pytest.fixture(scope="module")
def bundle():
    return bundle_of("lora")[0]


@pytest.fixture(scope="module")
def folders(bundle, tmp_path_factory):
    """An export of every kind: name -> (folder or file, its config)."""
    root = tmp_path_factory.mktemp("exports")
    onnx_lib.write(root / "onnx", bundle, int8=True)
    stablehlo.write(root / "stablehlo", bundle)
    bundle_lib.save(bundle, root / "saved")
    names = [task.name for task in bundle.tasks]
    torch_reference.write(root / "tower.safetensors", bundle, layout="official", tasks=names)
    found = {name: (root / name, root / name / "config.json") for name in ("onnx", "stablehlo", "saved")}
    found["torch"] = root / "tower.safetensors", root / "tower.config.json"
    return {name: (path, json.loads(config.read_text())) for name, (path, config) in found.items()}


class ThirdParty:
    """Preprocessing written from config.json with numpy and Pillow; `wrong` are mistakes to make."""

    def __init__(self, config, wrong=()):
        self.rules, self.wrong = config["preprocessing"], set(wrong)

    def __call__(self, path):
        with Image.open(path) as image:
            turn = {6: Image.Transpose.ROTATE_270}.get(image.getexif().get(274, 1))
            if turn is not None and "exif" not in self.wrong:
                assert "EXIF orientation" in self.rules["decode"]["orientation"]
                image = image.transpose(turn)
            pixels = np.asarray(image.convert(self.rules["colours"]), np.float64)
        side = self.rules["input"]["size"][0]
        if "bilinear" in self.wrong:
            for axis in (0, 1):
                pixels = np.apply_along_axis(self.bilinear, axis, pixels, side)
        else:
            assert max(pixels.shape) > 1.5 * side  # the rule "area" of resizing
            for axis in (0, 1):
                pixels = np.apply_along_axis(self.area, axis, pixels, side)
        pixels = np.rint(pixels)
        if "bgr" in self.wrong:
            pixels = pixels[..., ::-1]
        if self.rules["normalisation"] == "inside the model":
            values = (
                pixels.astype(np.uint8) if "scale" not in self.wrong else (pixels / 255).astype(np.float32)
            )
        else:
            mean, std = np.array(self.rules["mean"]), np.array(self.rules["std"])
            values = ((pixels / 255 - mean) / std if "scale" not in self.wrong else pixels).astype(np.float32)
        channels_first = (self.rules["input"]["layout"] == "NCHW") != ("layout" in self.wrong)
        return (values.transpose(2, 0, 1) if channels_first else values)[None]

    @staticmethod
    def area(line, side):
        """The mean over [i n / S, (i + 1) n / S): differences of the integral."""
        integral = np.concatenate([[0], np.cumsum(line)])
        edges = np.arange(side + 1) * len(line) / side
        return np.diff(np.interp(edges, np.arange(len(line) + 1), integral)) * side / len(line)

    @staticmethod
    def bilinear(line, side):
        places = (np.arange(side) + 0.5) * len(line) / side - 0.5
        return np.interp(places, np.arange(len(line)), line)


def test_the_reference_image_is_hard(folders):
    path, config = folders["onnx"]
    size = config["preprocessing"]["input"]["size"][0]
    with Image.open(path / "reference.jpg") as image:
        assert image.getexif()[274] == 6 and image.width > image.height > 1.5 * size
        upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    levels = np.asarray(Image.fromarray(upright).resize((size, size), Image.Resampling.BOX), int)
    for other in (levels[::-1], levels[:, ::-1], levels.transpose(1, 0, 2), levels[..., ::-1]):
        assert np.abs(levels - other).mean() > 10


@pytest.mark.parametrize("name", ["onnx", "stablehlo", "saved", "torch"])
def test_config_json_alone_gives_the_tensor(folders, tmp_path, name):
    path, config = folders[name]
    folder = path if path.is_dir() else path.parent
    prefix = "" if path.is_dir() else f"{path.stem}."
    numbers = json.loads((folder / f"{prefix}reference.json").read_text())
    tensor = ThirdParty(config)(folder / numbers["image"])
    np.save(tmp_path / "mine.npy", tensor)
    assert list(tensor.shape) == numbers["tensor"]["shape"] and tensor.dtype == numbers["tensor"]["type"]
    channels = (0, 1, 2) if numbers["tensor"]["layout"] == "NHWC" else (0, 2, 3)
    np.testing.assert_allclose(tensor.mean(channels), numbers["tensor"]["mean"], rtol=2e-2)
    assert "the expected tensor" in reference.check_tensor(path, tmp_path / "mine.npy")


MISTAKES = {
    "exif": "not rotated",
    "bgr": "BGR",
    "bilinear": "bilinear without antialiasing",
    "scale": "values 0 to",
    "layout": "layout N",
}
COMBINED = [*((name,) for name in MISTAKES), ("exif", "bgr"), ("bilinear", "scale"), tuple(MISTAKES)]


@pytest.mark.parametrize("name", ["onnx", "torch"])
@pytest.mark.parametrize("wrong", COMBINED, ids="+".join)
def test_mistakes_of_a_tensor_are_named(folders, tmp_path, name, wrong):
    path, config = folders[name]
    image = path / "reference.jpg" if path.is_dir() else path.with_name("tower.reference.jpg")
    np.save(tmp_path / "mine.npy", ThirdParty(config, wrong)(image))
    with pytest.raises(UserError) as error:
        reference.check_tensor(path, tmp_path / "mine.npy")
    found = re.search("found (.*); fix: ", str(error.value))[1]
    assert [word for word in MISTAKES.values() if word in found] == [
        MISTAKES[name] for name in MISTAKES if name in wrong
    ]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.reshape(1, 3, 32, 32), "reshaped to NCHW instead of transposed"),
        (lambda x: x.transpose(0, 2, 1, 3), "rows and columns exchanged"),
        (lambda x: x[:, ::-1, ::-1], "turned the wrong way"),
        (lambda x: x[:, :, ::-1], "mirrored"),
        (lambda x: x[:, :30, :30], r"another shape.*expected \(1, 32, 32, 3\), found \(1, 30, 30, 3\)"),
        (lambda x: np.random.default_rng(0).integers(0, 256, x.shape), "a step that is not known"),
        (lambda x: x * np.nan, "not finite"),
        (lambda x: (x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), "ImageNet"),
        (lambda x: ((x / 127.5 - 1) / 127.5) - 1, "normalised twice"),
    ],
)
def test_other_tensors_are_named(folders, tmp_path, change, message):
    path, config = folders["onnx"]
    np.save(tmp_path / "mine.npy", change(ThirdParty(config)(path / "reference.jpg")))
    with pytest.raises(UserError, match=message):
        reference.check_tensor(path, tmp_path / "mine.npy")


def numbers_of(folders, name):
    path, _ = folders[name]
    place = path / "reference.json" if path.is_dir() else path.with_name("tower.reference.json")
    return path, json.loads(place.read_text())["files"]


@pytest.mark.parametrize("name", ["onnx", "stablehlo", "saved", "torch"])
def test_logits_are_the_models_and_mistakes_of_them_are_named(folders, bundle, tmp_path, name):
    path, files = numbers_of(folders, name)
    size = bundle.image_size
    folder = folders["onnx"][0]
    image = decode.decode((folder / "reference.jpg").read_bytes(), size=size)[None]
    mine = {task: np.asarray(values)[0].tolist() for task, values in bundle_lib.runner(bundle)(image).items()}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    assert "the logits of" in reference.check_logits(path, tmp_path / "mine.json")
    first = next(iter(files.values()))
    for task, values in mine.items():
        np.testing.assert_allclose(first["logits"][task], values, atol=1e-4)
    shown = 0
    for mistake, logits in first["mistakes"].items():
        apart = max(np.abs(np.subtract(logits[task], mine[task])).max() for task in mine)
        (tmp_path / "theirs.json").write_text(json.dumps(logits))
        if apart > 4 * first["tolerance"]:
            shown += 1
            with pytest.raises(UserError, match="logits of another preprocessing") as error:
                reference.check_logits(path, tmp_path / "theirs.json")
            assert f"found {mistake}" in str(error.value)
    assert shown >= 4


def test_int8_logits_are_those_of_their_own_file(folders, tmp_path):
    path, files = numbers_of(folders, "onnx")
    assert set(files) == {"model.onnx", "model.int8.onnx"}
    (tmp_path / "mine.json").write_text(json.dumps(files["model.int8.onnx"]["logits"]))
    assert "model.int8.onnx" in reference.check_logits(path, tmp_path / "mine.json")


@pytest.mark.parametrize("content", ["", "[]", '{"age": [1, 2]}', '{"age": "x"}'])
def test_what_is_not_logits_is_one_line(folders, tmp_path, content):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(UserError, match="not the logits of one image"):
        reference.check_logits(folders["onnx"][0], tmp_path / "mine.json")


def test_a_folder_without_a_reference_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no reference beside the model"):
        reference.check_tensor(tmp_path, tmp_path / "mine.npy")


@pytest.mark.parametrize("name", ["onnx", "stablehlo"])
def test_the_script_of_a_folder_runs_without_this_package(folders, tmp_path, name):
    path, config = folders[name]
    code = (
        "import runpy, sys; sys.modules['softbio_jax'] = None; runpy.run_path('run.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "reference: logits differ by" in done.stdout
    assert all(f"reference.jpg: {task} " in done.stdout for task in config["outputs"])
    command = [sys.executable, "run.py", f"--tensor={tmp_path}/mine.npy", "reference.jpg"]
    assert subprocess.run(command, cwd=path, timeout=300, check=False).returncode == 0
    assert "mean difference 0.0" in reference.check_tensor(path, tmp_path / "mine.npy")


def test_the_script_tells_what_it_cannot_read_in_one_line(folders, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"no image")
    for name in ("gone.jpg", "torn.jpg"):
        command = [sys.executable, folders["onnx"][0] / "run.py", tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot read an image: ") and done.stderr.count("\n") == 1


def test_the_scripts_resizing_is_this_librarys(tmp_path):
    rng = np.random.default_rng(0)
    for height, width, size in rng.integers(3, 90, (60, 3)).tolist():
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        ours, theirs = decode.squash(image, size).astype(int), standalone.squash(image, size).astype(int)
        assert np.abs(ours - theirs).max() <= 1, (height, width, size)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "LA"])
def test_the_scripts_colours_are_this_librarys(tmp_path, mode):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8), "RGBA").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    np.testing.assert_array_equal(standalone.rgb(path), decode.decode_full(path.read_bytes()))


def test_a_model_saved_before_is_read(bundle, tmp_path):
    bundle_lib.save(bundle, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    old = {name: config["preprocessing"][name] for name in ("colours", "resize", "mean", "std")}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"preprocessing": old}))
    weights = tmp_path / "model" / "model.safetensors"
    arrays, notes = load_arrays(weights)
    save_arrays(weights, arrays, metadata={name: notes[name] for name in ("format", "variant")})  # no digests
    assert bundle_lib.label(bundle_lib.from_directory(tmp_path / "model")) == bundle_lib.label(bundle)


def check(*arguments):
    command = [sys.executable, "scripts/export.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_says_what_agrees_and_ends_with_1_where_a_step_differs(folders, tmp_path):
    path, config = folders["torch"]
    image = path.with_name("tower.reference.jpg")
    _, files = numbers_of(folders, "torch")
    np.save(tmp_path / "mine.npy", ThirdParty(config)(image))
    (tmp_path / "mine.json").write_text(json.dumps(files["tower.safetensors"]["logits"]))
    done = check(f"--check={path}", f"--tensor={tmp_path}/mine.npy", f"--logits={tmp_path}/mine.json")
    assert (done.returncode, done.stdout.count("\n")) == (0, 2), done.stderr
    np.save(tmp_path / "mine.npy", ThirdParty(config, ["exif"])(image))
    done = check(f"--check={path}", f"--tensor={tmp_path}/mine.npy")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: another preprocessing") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check=out"], "nothing to check"),
        (["--check=out", "--out=there", "--tensor=a.npy"], "--check writes nothing: --out"),
        (["--model=run", "--format=onnx", "--out=out", "--tensor=a.npy"], "a flag of --check: --tensor"),
        (["--format=onnx", "--out=out"], "a flag is missing: --model"),
    ],
)
def test_flags_of_the_check_that_do_not_fit_are_one_line(arguments, message):
    done = check(*arguments)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {message}"), done.stderr
