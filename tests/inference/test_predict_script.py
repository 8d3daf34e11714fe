"""scripts/predict.py, run as a user runs it, with the detector that comes with the extra."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from softbio_jax.data.drawing import synthetic
from softbio_jax.inference import bundle as bundle_lib

ROOT = pathlib.Path(__file__).parents[2]
# Drawn faces that the detector detects as faces.
ROWS = (3, 4, 5)


def predict(*arguments, stdin=""):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/predict.py"), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
    return bundle_lib.save(bundle, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Drawn faces beside each other, on a larger page."""
    folder = tmp_path_factory.mktemp("photos")
    page = np.full((260, 700, 3), 128, np.uint8)
    for i, row in enumerate(ROWS):
        face = synthetic.draw("synthetic_fairface", "test", row, size=160, seed=5).image
        Image.fromarray(face).save(folder / f"{i}.png")
        page[50:210, 40 + 220 * i : 200 + 220 * i] = face
    Image.fromarray(page).save(folder / "page.png")
    return folder


def test_found_faces_and_a_run_that_resumes(saved, photos, tmp_path):
    out, seen = tmp_path / "rows.csv", tmp_path / "seen"
    command = (f"--model={saved}", f"--out={out}", f"--annotate={seen}", photos / "*.png")
    done = predict(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    page = [row for row in rows if row["input"].endswith("page.png")]
    assert len(page) >= 2 and {row["input"] for row in rows} == set(map(str, photos.glob("*")))
    for row in page:  # each box is around one of the faces
        middle = (int(row["x0"]) + int(row["x1"])) / 2
        assert min(abs(middle - (120 + 220 * i)) for i in range(3)) < 40
    assert len(list(seen.rglob("*.jpg"))) == 4
    before = out.read_bytes()
    out.write_bytes(before[:-30])
    done = predict(*command)
    assert done.returncode == 0, done.stderr
    assert "1 images" in done.stderr and "3 done before" in done.stderr
    assert len(out.read_bytes().splitlines()) == len(before.splitlines())


def test_crops_from_a_list_and_a_broken_one(saved, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    names = [photos / "0.png", tmp_path / "broken.png", photos / "1.png"]
    done = predict(
        f"--model={saved}", "--faces=crop", "--format=jsonl", "-", stdin="\n".join(map(str, names))
    )
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == [str(names[0]), str(names[2])]
    assert all(isinstance(row["untrained"], list) for row in rows)
    *warnings, first, last = done.stderr.strip().splitlines()
    assert warnings[0].startswith("warning: age: no training image of ")  # the fixture's few faces
    assert all(line.startswith("warning: ") for line in warnings)
    assert first.startswith("skipped: cannot read the image") and "broken.png" in first
    assert last.startswith("2 images, 2 faces, 0 done before, 1 skipped")


def test_odd_names_in_folders_and_lists_end_no_run(saved, photos, tmp_path):
    folder = tmp_path / "in"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    data = (photos / "0.png").read_bytes()
    latin1 = os.fsdecode(b"caf\xe9.png")
    for name in ("0", "1.png", ".ipynb_checkpoints/0-checkpoint.png", latin1, "a\nb.png"):
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("notes")
    os.mkfifo(folder / "pipe.png")
    done = predict(f"--model={saved}", "--faces=crop", "--format=jsonl", folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == [
        str(folder / "0"),
        str(folder / "1.png"),
        str(folder / r"caf\xe9.png"),
    ]
    for part in ("notes.txt: not an image", "pipe.png: found a pipe", "0-checkpoint.png: hidden"):
        assert part in done.stderr
    for part in ("a\\nb.png: a line break", "2 skipped, 2 left out"):
        assert part in done.stderr
    names = [os.fsencode(folder / name) for name in (latin1, "1.png", "pipe.png", "x\0y.png")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/predict.py"), f"--model={saved}", "--faces=crop", "-"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=b"\n".join(names),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1 and b"2 images" in done.stderr and b"2 skipped" in done.stderr
    assert b"Traceback" not in done.stderr and len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model=nowhere", "--faces=crop", "x.png"], 1, "no such model: nowhere"),
        (["--model=nowhere"], 2, "name at least one input"),
        (["--model=nowhere", "--every=often", "x.mp4"], 1, "bad pace"),
        (["--model=nowhere", "--out=docs", "x.png"], 1, "the output is a folder: --out"),
        (["--model=nowhere", "--annotate=docs/new", "docs"], 1, "annotated images among those to predict"),
    ],
)
def test_mistakes_are_one_line(arguments, code, says):
    done = predict(*arguments)
    assert done.returncode == code
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_a_video_with_its_tracks(saved, photos, tmp_path):
    page = np.asarray(Image.open(photos / "page.png"))[:, :360]  # two faces
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (360, 260))
    for shift in range(5):
        writer.write(np.roll(page, 4 * shift, axis=1)[..., ::-1])
    writer.release()
    out = tmp_path / "rows.csv"
    done = predict(f"--model={saved}", "--track", "--every=1", f"--out={out}", tmp_path / "v.avi")
    assert done.returncode == 0, done.stderr
    frames = list(csv.DictReader(io.StringIO(out.read_text())))
    tracks = list(csv.DictReader(io.StringIO((tmp_path / "rows.tracks.csv").read_text())))
    assert sum(int(row["frames"]) for row in tracks) == len(frames) >= 5
    assert len(tracks) <= 2 and {row["track"] for row in frames} == {row["track"] for row in tracks}
    assert {row["model"] for row in frames} == {row["model"] for row in tracks}
    before = out.read_bytes()
    for flags in ([], ["--every=1", "--half_life=0"], ["--every=1", "--gap=0.5"]):
        again = predict(f"--model={saved}", "--track", *flags, f"--out={out}", tmp_path / "v.avi")
        assert again.returncode == 1 and "the output holds something else" in again.stderr
        assert out.read_bytes() == before


def test_rows_of_another_margin_are_not_continued(saved, photos, tmp_path):
    out = tmp_path / "rows.csv"
    command = (f"--model={saved}", f"--out={out}")
    assert predict(*command, "--margin=0.5", photos / "0.png").returncode == 0
    before = out.read_bytes()
    done = predict(*command, photos / "1.png")
    assert done.returncode == 1 and "found " in done.stderr and "margin=0.5; fix: name another" in done.stderr
    assert out.read_bytes() == before
    assert predict(*command, "--margin=0.5", photos / "1.png").returncode == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert {row["input"] for row in rows} == {str(photos / "0.png"), str(photos / "1.png")}


def test_a_risk_without_thresholds_is_one_line(saved, photos):
    done = predict(f"--model={saved}", "--faces=crop", "--risk=0.3", photos / "0.png")
    if done.returncode == 0:  # the run's few validation rows may suffice
        assert "unsure" in done.stdout.splitlines()[0]
    else:
        assert done.stderr.count("error: no threshold of unsure answers") == 1
