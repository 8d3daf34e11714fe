import csv
import json

import cv2
import numpy as np

from softbio_jax.data.audit.groups import Groups, contradictions, drop_list
from tests.data.audit.planting import scene
from tests.data.test_data_scripts import run  # noqa: F401


def _side(split, name, **labels):
    return {"split": split, "id": name, "labels": labels}


def test_pairs_make_groups():
    groups = Groups(8)
    for first, second in ((6, 7), (1, 3), (3, 5), (7, 6), (5, 1)):
        groups.join(first, second)
    assert groups.members() == [[1, 3, 5], [6, 7]]
    assert (groups.size(5), groups.size(0)) == (3, 1)
    assert groups.leader(5) == groups.leader(1) == 1


def test_labels_contradict_only_within_a_task():
    sides = [
        _side("a/train", "1", gender="male", age="3-9"),
        _side("a/test", "2", gender="female"),
        _side("b/x", "3"),
    ]
    assert contradictions(sides) == {"gender": ["female", "male"]}
    assert contradictions(sides[1:]) == {}


def test_the_images_of_the_test_split_are_kept():
    images = [
        _side("a/train", "1", age="3-9"),
        _side("a/val", "2"),
        _side("b/test", "3", age="0-2"),
        _side("b/test", "4", age="0-2"),
    ]
    rows = list(csv.DictReader(drop_list([{"images": images}, {"images": images[:2]}]).splitlines()))
    assert [(row["id"], row["copy_of_id"], row["across"], row["labels_differ"]) for row in rows] == [
        ("1", "3", "yes", "age"),
        ("2", "3", "yes", ""),
        ("4", "3", "no", ""),
        ("1", "2", "yes", ""),
    ]


def test_the_command_prints_contradictions_and_writes_what_to_remove(run, tmp_path):  # noqa: F811
    for number in range(6):
        for split, name in (("train", "male"), ("test", "female")):
            image = scene(number if split == "train" or number < 2 else 100 + number)
            if split == "test":
                image = image[6:, 6:]
            path = tmp_path / "raw" / split / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.ascontiguousarray(image))
    source = ["--dataset=folder", "--task=gender", f"--source={tmp_path}/raw", f"--out={tmp_path}/data"]
    assert run("prepare_data.py", *source).returncode == 0
    flags = [f"--data={tmp_path}/data", f"--out={tmp_path}/audit", f"--drop={tmp_path}/drop.csv"]
    done = run("audit_data.py", *flags)
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("gender labels of copies differ: ")]
    assert len(shown) == 2
    assert all(f"male/{n}.jpg male" in shown[n] and f"female/{n}.jpg female" in shown[n] for n in range(2))
    rows = list(csv.DictReader((tmp_path / "drop.csv").read_text().splitlines()))
    assert [(row["split"], row["across"], row["labels_differ"]) for row in rows] == [
        ("data/train", "yes", "gender")
    ] * 2
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["verdict"]["contradicting_labels"] == len(found["groups"]) == 2
    assert "images whose copies have other labels" in (tmp_path / "audit" / "audit.html").read_text()
