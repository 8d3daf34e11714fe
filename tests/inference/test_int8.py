"""int8 exports whose activations are calibrated: which images, which ranges, how near to float32."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from softbio_jax.data.decode import decode
from softbio_jax.data.sources import open_prepared
from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics.selective import RISKS
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference import reference
from softbio_jax.inference.export import calibration, litert
from softbio_jax.inference.export import onnx as onnx_lib
from softbio_jax.inference.export.calibration import Calibration
from softbio_jax.inference.reference.write import probability_distance, write_reference
from tests.adapters import towers
from tests.compiling import quick_jit
from tests.inference.test_bundle import bundle_of, pixels
from tests.structure import ROOT


def of_pixels(bundle, count=24, tolerance=0.05):
    return Calibration(sources=("mine/train",), images=pixels(bundle, count), tolerance=tolerance)


def test_images_come_evenly_from_prepared_data_and_folders(data_root, tmp_path):
    for i in range(9):
        Image.fromarray(np.full((40, 30, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    prepared = data_root / "synthetic_utkface"
    found = calibration.read([f"{prepared}:test", str(tmp_path)], size=32, count=12)
    assert found.sources == ("synthetic_utkface/test", tmp_path.name)
    dataset = open_prepared(prepared, "test")
    faces = {decode(dataset[i], size=32).tobytes() for i in range(len(dataset))}
    grey = {np.full((32, 32, 3), 20 * i, np.uint8).tobytes() for i in range(9)}
    rows = [image.tobytes() for image in found.images]
    assert len(set(rows)) == 12 and sum(row in faces for row in rows) == sum(row in grey for row in rows) == 6
    assert len(found.measured) == 9 and len(found.held_out) == 3
    assert not {x.tobytes() for x in found.measured} & {x.tobytes() for x in found.held_out}
    said = found.to_json()
    assert said["sha256"] == hashlib.sha256(b"".join(rows)).hexdigest()
    assert (said["images"], said["held_out"]) == (9, 3)
    again = calibration.read([f"{prepared}:test", str(tmp_path)], size=32, count=12)
    assert again.to_json() == said
    # A source with few images leaves its share to the next.
    few = calibration.read([str(tmp_path), f"{prepared}:test"], size=32, count=20)
    assert sum(image.tobytes() in grey for image in few.images) == 9 and len(few.images) == 20


def test_batches_have_every_measured_image_and_no_other(tmp_path):
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    given = Calibration(sources=(), images=images)
    batches = list(given.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert {int(x.max()) for batch in batches for x in batch} == {1, 2, 3, 5, 6, 7, 9, 10, 11}


@pytest.mark.parametrize("case", ["nothing", "file", "few", "split"])
def test_what_cannot_be_calibrated_on_is_one_line(data_root, tmp_path, case):
    (tmp_path / "x.png").write_bytes(b"")
    Image.new("RGB", (20, 20)).save(tmp_path / "y.png")
    (tmp_path / "few").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "few" / "y.png")
    source, says = {
        "nothing": (tmp_path / "none", "found nothing"),
        "file": (tmp_path / "y.png", "found a file"),
        "few": (tmp_path / "few", "expected at least 4, better 256, found 1"),
        "split": (f"{data_root / 'synthetic_utkface'}:none", "none"),
    }[case]
    with pytest.raises(UserError) as error:
        calibration.read([str(source)], size=32)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_distance_is_half_of_what_probabilities_move():
    found = probability_distance(np.log([[0.25, 0.75], [0.5, 0.5]]), np.log([[0.5, 0.5], [0.5, 0.5]]))
    np.testing.assert_allclose(found, [0.25, 0], atol=1e-12)
    far = probability_distance(np.array([[50.0, 0, 0]]), np.array([[0.0, 50, 0]]))
    np.testing.assert_allclose(far, 1)


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory):
    onnx = pytest.importorskip("onnx", reason="the extra onnx")
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle, _ = bundle_of("lora")
    folder, given = tmp_path_factory.mktemp("int8") / "onnx", of_pixels(bundle)
    onnx_lib.write(folder, bundle, int8=True, calibration=given)
    return bundle, given, folder, onnx


def test_onnx_multiplies_int8_by_ranges_that_were_measured(onnx_folder):
    bundle, given, folder, onnx = onnx_folder
    model = onnx.load(folder / "model.int8.onnx")
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    dense = [
        node
        for node in products
        if node.input[1] in made_by and made_by[node.input[1]].op_type == "DequantizeLinear"
    ]
    # All but two of every attention, whose factors are both activations.
    assert len(products) - len(dense) == 2 * bundle.model.config.layers + 2
    for node in dense:
        kernel, scale, _ = made_by[node.input[1]].input
        assert constants[kernel].dtype == np.int8
        assert constants[scale].shape == (constants[kernel].shape[1],)  # one per channel
        activation = made_by[node.input[0]]
        assert activation.op_type == "DequantizeLinear" and constants[activation.input[1]].shape == ()
    # The range of the patches is that of the measured images.
    rows = 3 * bundle.model.config.patch_size**2
    (first,) = (x for x in dense if len(constants[made_by[x.input[1]].input[0]]) == rows)
    step = constants[made_by[first.input[0]].input[1]]
    levels = given.measured / 127.5 - 1.0
    assert step == pytest.approx((levels.max() - levels.min()) / 255, rel=1e-5)


def test_onnx_int8_answers_do_not_depend_on_the_batch(onnx_folder):
    bundle, _, folder, _ = onnx_folder
    run = onnx_lib.load(folder / "model.int8.onnx", threads=1)
    images = pixels(bundle, 16, seed=3)
    images[4:] //= 8
    together, alone = run(images), [run(image[None]) for image in images]
    for task, found in together.items():
        np.testing.assert_allclose(found, np.concatenate([one[task] for one in alone]), atol=1e-5)


def test_config_json_names_the_images_and_the_agreement(onnx_folder):
    bundle, given, folder, _ = onnx_folder
    said = json.loads((folder / "config.json").read_text())["quantisation"]
    assert said["calibration"] == given.to_json()
    some = 1 + 4 * bundle.model.config.layers + 4  # patches, blocks and pooling; not its constant query
    assert said["activations"] == f"int8, static in {some} of {some + 1} dense layers, dynamic in the others"
    run = onnx_lib.load(folder / "model.int8.onnx", threads=1)
    wanted = quick_jit(bundle.forward)(bundle.variables, given.held_out)
    for task, found in run(given.held_out).items():
        p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (found, np.asarray(wanted[task])))
        distance = np.abs(p - q).sum(-1).mean() / 2
        assert 0 < said["agreement"][task]["distance"] == pytest.approx(distance, abs=2e-5)
        assert said["agreement"][task]["same_class"] == np.mean(p.argmax(-1) == q.argmax(-1))
    assert said["agreement"]["tolerance"] == 0.05


def test_a_model_that_changes_too_much_is_refused_and_leaves_nothing(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle, _ = bundle_of("lora")
    with pytest.raises(UserError, match=r"differ too much from float32: model\.int8\.onnx") as error:
        onnx_lib.write(tmp_path / "x", bundle, int8=True, calibration=of_pixels(bundle, tolerance=1e-6))
    assert "\n" not in str(error.value) and "at most 1e-06" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [np.nan, 1e4])
def test_logits_that_are_broken_do_not_agree(broken):
    given = Calibration(sources=(), images=np.zeros((8, 2, 2, 3), np.uint8))
    logits = np.array([[0.0, 1.0]])
    with pytest.raises(UserError, match="differ too much"):
        calibration.quantisation(
            lambda images: {"age": logits, "gender": logits},
            lambda images: {"age": logits, "gender": logits * [broken, 1]},
            given,
            static=(1, 1),
            where="x",
        ) if np.isnan(broken) else calibration.quantisation(
            lambda images: {"age": logits},
            lambda images: {"age": logits - broken * np.array([0, 1])},
            given,
            static=(1, 1),
            where="x",
        )


def references(folder, scale):
    """Writes the reference of a linear model and its rounded twin; returns its files and the check."""
    weights = np.random.default_rng(0).normal(size=(32 * 32 * 3, 9)) * scale

    def exact(images):
        return {"age": images.reshape(len(images), -1) / 127.5 @ weights}

    def rounded(images):
        return {"age": np.round(exact(images)["age"] / scale / 4) * scale * 4}

    write_reference(folder, {"a": exact, "a.int8": rounded}, size=32, quantised=["a.int8"])

    def check(logits):
        (folder / "x.json").write_text(json.dumps({"age": list(logits)}))
        return reference.check_logits(folder, folder / "x.json")

    return json.loads((folder / "reference.json").read_text())["files"], check


def test_a_mistake_in_float32_is_named_where_int8_agrees_with_it(tmp_path):
    numbers, check = references(tmp_path, 1 / 4000)
    wrong = numbers["a"]["mistakes"]["channels in the order BGR"]["age"]
    away = probability_distance(np.array(wrong), np.array(numbers["a.int8"]["logits"]["age"]))
    assert away < numbers["a.int8"]["tolerance"]
    with pytest.raises(UserError, match="BGR"):
        check(wrong)


def test_int8_logits_of_another_processor_agree_and_mistakes_are_still_named(tmp_path):
    numbers, check = references(tmp_path, 1 / 40)
    assert numbers["a"]["measure"] == "logits" and numbers["a.int8"]["measure"] == "probabilities"

    other = np.array(numbers["a.int8"]["logits"]["age"]) + np.tile([0.02, -0.02, 0.01], 3)
    assert "the logits of a.int8, largest difference of probabilities" in check(other)
    assert "the logits of a," in check(numbers["a"]["logits"]["age"])
    with pytest.raises(UserError, match="BGR"):
        check(numbers["a"]["mistakes"]["channels in the order BGR"]["age"])
    with pytest.raises(UserError, match="other logits"):
        check(np.array(other)[::-1])


# ---- LiteRT: make test-app


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The command from a saved model to a folder for a robot."""
    root = tmp_path_factory.mktemp("chain")
    bundle, _ = bundle_of("lora")
    bundle_lib.save(bundle, root / "model")
    (root / "faces").mkdir()
    for i, image in enumerate(pixels(bundle, 24, seed=1)):
        Image.fromarray(image).save(root / "faces" / f"{i}.png")
    command = [sys.executable, "scripts/export.py", f"--model={root / 'model'}", "--format=litert", "--int8"]
    command += [f"--calibrate={root / 'faces'}", f"--out={root / 'robot'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return bundle, root


def without(tmp_path, *modules):
    """The environment of a python in which modules cannot be imported."""
    for name in modules:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is blocked')")
    return {"PYTHONPATH": str(tmp_path), "PATH": ""}


@pytest.mark.app
def test_from_a_model_to_a_folder_that_runs_without_jax(chain, tmp_path):
    bundle, root = chain
    frame = np.random.default_rng(4).integers(0, 256, (90, 150, 3), np.uint8)
    np.save(tmp_path / "frame.npy", frame)
    environment = without(tmp_path, "jax", "softbio_jax", "PIL", "cv2", "scipy")
    command = [sys.executable, root / "robot" / "camera.py", tmp_path / "frame.npy", "--box=60,10,120,75"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    from softbio_jax.data.decode import squash

    face = squash(frame[10:75, 57:122], bundle.image_size)[None]
    logits = litert.load(root / "robot" / "model.int8.tflite")(face)
    answers = []
    for task in bundle.tasks:
        p = np.exp(logits[task.name][0] / bundle.temperatures.get(task.name, 1.0))
        p /= p.sum()
        answers.append(f"{task.name} {task.classes[p.argmax()]} ({p.max():.2f})")
    assert done.stdout == ", ".join(answers) + "\n"
    assert len(done.stdout.split(",")) == 3


@pytest.mark.app
def test_the_camera_says_unsure_below_the_threshold(chain, tmp_path):
    bundle, root = chain
    np.save(tmp_path / "frame.npy", pixels(bundle, 1)[0])
    config = json.loads((root / "robot" / "config.json").read_text())
    config["thresholds"] = {"age": {"0.1": 0.0}, "gender": {"0.1": 1.0}, "emotion": {"0.1": None}}
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("camera.py", "model.int8.tflite"):
        (copy / name).write_bytes((root / "robot" / name).read_bytes())
    (copy / "config.json").write_text(json.dumps(config))
    command = [sys.executable, copy / "camera.py", tmp_path / "frame.npy", "--risk=0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    age, gender, emotion = done.stdout.split(", ")
    assert "unsure" not in age and gender.startswith("gender unsure") and emotion.startswith("emotion unsure")


@pytest.mark.app
@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["gone.jpg"], "error: no frame in gone.jpg"), (["gone.jpg", "--risk=0.15"], "invalid choice: '0.15'")],
)
def test_the_camera_without_a_frame_is_no_success(chain, tmp_path, arguments, says):
    pytest.importorskip("cv2")
    command = [sys.executable, chain[1] / "robot" / "camera.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.app
def test_the_reference_loop_needs_little():
    source = (ROOT / "softbio_jax/inference/reference/camera.py").read_text()
    assert len(source.splitlines()) < 60 and all(f'"{risk:g}"' in source for risk in RISKS)


@pytest.mark.app
def test_litert_kernels_and_activations_are_int8_but_no_logit(chain):
    from ai_edge_litert.interpreter import Interpreter

    _, root = chain
    model = Interpreter(model_path=str(root / "robot" / "model.int8.tflite"))
    tensors = {detail["index"]: detail for detail in model.get_tensor_details()}
    dense = [op for op in model._get_ops_details() if op["op_name"] == "FULLY_CONNECTED"]
    last = {detail["index"] for detail in model.get_output_details()}
    for op in dense:
        x, kernel = (tensors[i] for i in op["inputs"][:2])
        assert kernel["dtype"] == np.int8
        assert len(kernel["quantization_parameters"]["scales"]) == kernel["shape"][0]  # one per channel
        if op["outputs"][0] in last:
            assert x["dtype"] == np.float32  # no logit ends at a range
        else:
            assert x["dtype"] == np.int8 and len(x["quantization_parameters"]["scales"]) == 1
    assert sum(op["outputs"][0] in last for op in dense) == 3 < len(dense)


@pytest.mark.app
def test_litert_ranges_hold_every_image_they_were_measured_on(chain, tmp_path):
    # Of two kinds of images one is rare: an average of ends would cut its activations off.
    bundle, _ = chain
    images = pixels(bundle, 40) // 8 + 112
    images[[9, 30]] = pixels(bundle, 2, seed=5)
    given = Calibration(sources=(), images=images)
    litert.write(tmp_path / "x", bundle, int8=True, calibration=given)
    exact, found = (litert.load(tmp_path / "x" / name) for name in ("model.tflite", "model.int8.tflite"))
    for task, wanted in exact(images[[9]]).items():
        assert probability_distance(found(images[[9]])[task], wanted).max() < 0.02, task


@pytest.mark.app
def test_litert_takes_a_layer_scale_into_its_biases(tmp_path):
    plain, _ = bundle_of("lp")
    model = towers.model(towers.METHODS["lp"], "tiny-dense")
    net = plain.model.clone(config=model.config)
    bundle = dataclasses.replace(plain, model=net, image_size=48, variables=towers.variables(model))
    litert.write(tmp_path / "x", bundle, int8=True, calibration=of_pixels(bundle))
    said = json.loads((tmp_path / "x" / "config.json").read_text())["quantisation"]
    assert 0 < said["agreement"]["age"]["distance"] < 0.05


@pytest.mark.app
@pytest.mark.parametrize("method", ["mtlora", "mtlora_task"])
def test_litert_finds_the_shared_layers_of_mtlora_among_those_of_the_tasks(tmp_path, method):
    bundle, _ = bundle_of(method)
    litert.write(tmp_path / "x", bundle, int8=True, calibration=of_pixels(bundle))
    said = json.loads((tmp_path / "x" / "config.json").read_text())["quantisation"]
    some, every = map(int, re.findall(r"\d+", said["activations"].removeprefix("int8")))
    assert 4 * (bundle.model.config.layers - 1) < some < every  # the adapters of tasks stay dynamic
    assert all(0 < said["agreement"][task]["distance"] < 0.05 for task in ("age", "gender", "emotion"))


@pytest.mark.app
def test_a_litert_file_of_several_images_gives_each_its_answers(chain, tmp_path):
    bundle, _ = chain
    given = of_pixels(bundle)
    litert.write(tmp_path / "x", bundle, int8=True, calibration=given, batch=3)
    assert json.loads((tmp_path / "x" / "config.json").read_text())["input"]["shape"][0] == 3
    images = pixels(bundle, 5, seed=7)  # one whole call, and one that is filled up
    wanted = quick_jit(bundle.forward)(bundle.variables, images)
    for name, atol in (("model.tflite", 1e-4), ("model.int8.tflite", 0.1)):
        run = litert.load(tmp_path / "x" / name)
        found, alone = run(images), [run(image[None]) for image in images]
        for task in wanted:
            np.testing.assert_allclose(found[task], wanted[task], atol=atol)
            np.testing.assert_allclose(found[task], np.concatenate([one[task] for one in alone]), atol=1e-5)
    script = subprocess.run([sys.executable, tmp_path / "x" / "run.py"], capture_output=True, text=True)
    assert script.returncode == 0, script.stderr
    assert textwrap.shorten(script.stdout, 10**4).count("reference: logits differ by") == 1
