"""The latency command: percentiles of calls, the core they ran on, and no library but the model's own."""

import json
import os
import subprocess
import sys

import pytest

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.export import onnx as onnx_lib
from softbio_jax.inference.latency import timing, worker
from softbio_jax.params import flatten
from tests.inference.test_bundle import bundle_of
from tests.scripts import run_script
from tests.structure import ROOT


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle, _ = bundle_of("lora")
    folder = tmp_path_factory.mktemp("latency") / "robot"
    onnx_lib.write(folder, bundle, int8=True)
    return bundle, folder


def test_the_figures_are_those_of_the_calls(monkeypatch, capsys):
    took = [0.001 * (1 + i) for i in range(20)]  # seconds: 1 to 20 ms
    now, calls = [0.0], iter([9.0] * 5 + took + [0.1] * 99)

    def call():
        now[0] += next(calls)

    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    monkeypatch.setitem(
        worker._OPEN, "fake", lambda spec: (call, {"runtime": "fake 1", "batch": 1, "size": 8})
    )
    monkeypatch.setattr(worker, "_pin", lambda threads: True)
    spec = {"format": "fake", "threads": 1, "calls": 20, "seconds": 0.1}
    monkeypatch.setattr(sys, "argv", ["worker", json.dumps(spec)])
    worker.main()
    found = json.loads(capsys.readouterr().out)
    assert found["calls"] == 20  # without those that warm up, 9 s each
    assert found["median_ms"] == pytest.approx(10.5) and found["p95_ms"] == pytest.approx(19.05)


def test_at_least_the_seconds_are_measured(monkeypatch, capsys):
    now = [0.0]

    def call():
        now[0] += 0.25

    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    monkeypatch.setitem(worker._OPEN, "fake", lambda spec: (call, {}))
    monkeypatch.setattr(worker, "_pin", lambda threads: True)
    monkeypatch.setattr(
        sys, "argv", ["worker", json.dumps({"format": "fake", "threads": 1, "calls": 3, "seconds": 2.0})]
    )
    worker.main()
    assert json.loads(capsys.readouterr().out)["calls"] == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are limited on Linux alone")
def test_a_process_is_kept_on_its_cores():
    code = "import os; from softbio_jax.inference.latency import worker; worker._pin(1);"
    code += "print(len(os.sched_getaffinity(0)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_folder_has_a_row_per_file_and_number_of_cores(exported):
    bundle, folder = exported
    rows = timing.measure([str(folder)], threads=(1,), seconds=0.0, calls=5)
    assert [(row.model, row.format, row.precision) for row in rows] == [
        ("robot", "onnx", "int8"),
        ("robot", "onnx", "float32"),
    ]
    numbers = sum(leaf.size for leaf in flatten(bundle.variables["params"]).values())
    for row, file in zip(rows, ("model.int8.onnx", "model.onnx"), strict=True):
        assert row.file_mb == (folder / file).stat().st_size / 1e6
        assert row.parameters == numbers and (row.size, row.batch, row.threads) == (32, 1, 1)
        assert 0 < row.median_ms <= row.p95_ms and row.calls >= 5
        assert 20 < row.peak_mb < 2000  # python, numpy and onnxruntime
    # Two per multiply-add of the patches and the blocks' kernels, and the rest is less than that again.
    config = bundle.model.config
    tokens, width = config.tokens_on(None), config.width
    least = 2 * tokens * config.layers * (4 * width**2 + 2 * width * config.mlp_width)
    assert least < 1e9 * rows[0].gflops < 2 * least
    assert timing.table(rows).count("robot") == 2


def test_a_file_is_measured_without_jax(exported, tmp_path):
    _, folder = exported
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise ImportError('jax is blocked')")
    spec = {"format": "onnx", "path": str(folder / "model.onnx"), "threads": 1, "calls": 2, "seconds": 0}
    command = [sys.executable, "-m", "softbio_jax.inference.latency.worker", json.dumps(spec)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runtime"].startswith("onnxruntime ")


def test_the_command_prints_a_table_and_writes_json(exported, tmp_path):
    bundle, folder = exported
    saved = bundle_lib.save(bundle, tmp_path / "saved")
    flags = ("--threads=1", "--seconds=0", "--calls=3", f"--out={tmp_path / 'x.json'}")
    done = run_script("latency.py", folder / "model.onnx", saved, *flags)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[2].strip() for line in done.stdout.splitlines()[2:]] == ["onnx", "jax"]
    found = json.loads((tmp_path / "x.json").read_text())
    file, jax = found["rows"]
    assert file["parameters"] == jax["parameters"] and file["gflops"] == pytest.approx(jax["gflops"])
    assert found["machine"]["cores"] == os.cpu_count() and jax["model"] == "saved"


def test_only_its_own_file_is_replaced(exported, tmp_path):
    out, flags = tmp_path / "x.json", ("--threads=1", "--seconds=0", "--calls=1")
    for _ in range(2):
        done = run_script("latency.py", exported[1] / "model.onnx", *flags, f"--out={out}")
        assert done.returncode == 0, done.stderr
    out.write_text('{"mine": 1}')
    done = run_script("latency.py", exported[1] / "model.onnx", *flags, f"--out={out}")
    assert done.returncode == 1 and "the destination exists: --out" in done.stderr
    assert out.read_text() == '{"mine": 1}'


@pytest.mark.parametrize("case", ["gone", "text", "threads", "broken"])
def test_what_cannot_be_measured_is_one_line(tmp_path, case):
    (tmp_path / "x.txt").write_text("no model")
    (tmp_path / "x.onnx").write_text("no model")
    model, threads, says = {
        "gone": ("runs-of-nobody", 1, "no such model"),
        "text": ("x.txt", 1, "a file that ends with .txt"),
        "threads": ("x.onnx", 10**4, "more threads than cores"),
        "broken": ("x.onnx", 1, "the model cannot be measured"),
    }[case]
    if case == "broken":
        pytest.importorskip("onnxruntime", reason="the extra onnx")
    with pytest.raises(UserError) as error:
        timing.measure([str(tmp_path / model)], threads=(threads,), seconds=0.0, calls=1)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.app
def test_litert_files_are_measured_too(tmp_path):
    from softbio_jax.inference.export import litert

    bundle, _ = bundle_of("lora")
    litert.write(tmp_path / "x", bundle, int8=True, batch=2)
    rows = timing.measure([str(tmp_path / "x")], threads=(1,), seconds=0.0, calls=5)
    assert [(row.format, row.precision, row.batch) for row in rows] == [
        ("litert", "float32", 2),
        ("litert", "int8", 2),
    ]
    assert rows[1].file_mb < rows[0].file_mb and rows[0].gflops == rows[1].gflops > 0
