"""The data commands as a user runs them, with TensorFlow out of reach."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from softbio_jax.data import index
from tests.data.trees import FAIRFACE_HEADER, make_fairface, write_image, write_table

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    blocker = tmp_path / "blocker" / "tensorflow"
    blocker.mkdir(parents=True)
    (blocker / "__init__.py").write_text("raise ModuleNotFoundError('tensorflow is blocked')\n")
    path = os.pathsep.join([str(blocker.parent), str(ROOT)])

    def run(script, *flags):
        return subprocess.run(
            [sys.executable, ROOT / "scripts" / script, *flags],
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        ("{0}/a,{0}/a/", [], "the same set twice: --data"),
        ("{0}/a,{0}/link", ["--drop={0}/drop.csv"], "the same set twice: --data"),
        ("{0}/a,{0}/b/a", ["--drop={0}/drop.csv"], "two sets of one name: --data"),
        ("{0}/a,{0}/b/a", [], "not prepared data"),
    ],
)
def test_sets_to_audit_are_distinct(run, tmp_path, data, more, says):
    (tmp_path / "b" / "a").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    flags = [flag.format(tmp_path) for flag in (f"--data={data}", f"--out={tmp_path}/audit", *more)]
    done = run("audit_data.py", *flags)
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert not (tmp_path / "audit").exists() and not (tmp_path / "drop.csv").exists()


def test_prepare_then_audit(run, tmp_path):
    source = make_fairface(tmp_path / "raw", train=9, val=3)
    done = run("prepare_data.py", "--dataset=fairface", f"--source={source}", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "train: 9 rows read, 9 kept, 0 skipped, 0 rejected" in done.stdout
    assert "images/s" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["splits"]["val"]["kept"] == 3
    assert (tmp_path / "out" / "classes.png").read_bytes()[:4] == b"\x89PNG"
    done = run("audit_data.py", f"--data={tmp_path}/out", f"--out={tmp_path}/audit")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert index.load_verdict(tmp_path / "out") == found["verdict"]
    assert len(found["verdict"]["sha256"]) == 64
    assert index.load_verdict(tmp_path / "raw") is None


def test_images_without_labels_are_prepared_without_a_figure_of_classes(run, tmp_path):
    for number in range(3):
        write_image(tmp_path / "crops" / f"{number}.png", number, kind="PNG")
    done = run("prepare_data.py", "--dataset=images", f"--source={tmp_path}/crops", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "train: 3 rows read, 3 kept" in done.stdout
    assert (tmp_path / "out" / "report.json").exists()
    assert not (tmp_path / "out" / "classes.png").exists()


def test_dry_run_writes_nothing(run, tmp_path):
    source = make_fairface(tmp_path / "raw", train=4, val=2)
    done = run("prepare_data.py", "--dataset=fairface", f"--source={source}", "--dry_run")
    assert (done.returncode, done.stdout.splitlines()[:2]) == (
        0,
        ["train: 4 rows, 0 images missing", "val: 2 rows, 0 images missing"],
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocker", "raw"]


def test_dry_run_says_what_is_missing(run, tmp_path):
    source = make_fairface(tmp_path / "raw", train=4, val=2)
    (source / "train" / "3.jpg").unlink()
    flags = ["--dataset=fairface", f"--source={source}", "--dry_run"]
    done = run("prepare_data.py", *flags)
    assert done.returncode == 1
    assert f"missing {source}/train/3.jpg" in done.stdout
    assert "too many images are missing: split 'train'" in done.stderr
    assert run("prepare_data.py", *flags, "--max_rejected=0.3").returncode == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataset=fairface", "--source=nowhere", "--out=x"], "no such folder: nowhere"),
        (["--dataset=fairfaces", "--source=nowhere", "--out=x"], "unknown data set"),
        (["--dataset=fodler", "--task=emotion", "--source=nowhere", "--out=x"], "unknown data set"),
        (["--dataset=fairface", "--source=nowhere"], "a flag is missing: --out"),
        (["--dataset=folder", "--source=nowhere", "--out=x"], "a flag is missing: --task"),
        (["--dataset=folder", "--task=age", "--source=x", "--out=x", "--utk=wild"], "--utk"),
        (["--dataset=csv", "--source=x", "--out=x", "--columns=path"], "not a pair: --columns"),
    ],
)
def test_mistakes_are_one_line(run, flags, says):
    done = run("prepare_data.py", *flags)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_broken_row_is_one_line_and_leaves_nothing(run, tmp_path):
    source = make_fairface(tmp_path / "raw", train=4, val=2)
    row = ("train/1.jpg", "03-Sep", "Male", "White", "TRUE")
    write_table(source / "fairface_label_train.csv", FAIRFACE_HEADER, [row])
    done = run("prepare_data.py", "--dataset=fairface", f"--source={source}", f"--out={tmp_path}/out")
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "fairface_label_train.csv row 2: expected 3-9, found '03-Sep'" in error[0]
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocker", "raw"]


def test_composite_with_the_margins_of_the_thesis(run, tmp_path):
    done = run("composite.py", "--margins", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "total       136,747   136,747       +0" in done.stdout
    assert (tmp_path / "out" / "composite.png").is_file()
