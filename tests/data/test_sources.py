import pickle
import shutil

import numpy as np
import pytest

from softbio_jax.data import sources
from softbio_jax.errors import UserError


def test_survives_being_sent_to_a_worker(faces):
    copy = pickle.loads(pickle.dumps(faces))
    assert copy[5] == faces[5]
    assert "_source" not in faces.__getstate__()


def test_take_keeps_order_and_repetitions(faces):
    part = faces.take(np.array([4, 4, 1]))
    assert len(part) == 3
    assert [part[i] for i in range(3)] == [faces[4], faces[4], faces[1]]
    assert part.labels["age"].tolist() == [4, 4, 1]
    assert part.columns["id"].tolist() == ["train/5.jpg", "train/5.jpg", "train/2.jpg"]
    assert part.take(np.array([2]))[0] == faces[1]


def test_fingerprint_names_the_choice_of_rows(faces):
    prints = {faces.fingerprint} | {faces.take(np.array(rows)).fingerprint for rows in ([0, 1], [1, 0], [0])}
    assert len(prints) == 4
    assert faces.take(np.array([0])).fingerprint == faces.take(np.array([0])).fingerprint


def test_unknown_split_lists_the_known(prepared):
    with pytest.raises(UserError, match=r"no such prepared split: .*'test': .*train, val"):
        sources.open_prepared(prepared / "faces", "test")


def test_folder_that_was_not_prepared(prepared, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", prepared / "raw_faces"):
        with pytest.raises(UserError, match=r"prepare_data\.py"):
            sources.open_prepared(folder, "train")


def test_broken_index(prepared, tmp_path):
    shutil.copytree(prepared / "faces", tmp_path / "faces")
    (tmp_path / "faces" / "index_train.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match="a broken index"):
        sources.open_prepared(tmp_path / "faces", "train")


def test_index_of_another_split(prepared, tmp_path):
    shutil.copytree(prepared / "faces", tmp_path / "faces")
    shutil.copy(tmp_path / "faces" / "index_val.npz", tmp_path / "faces" / "index_train.npz")
    with pytest.raises(UserError, match=r"do not belong together.*expected 5 records, found 12"):
        sources.open_prepared(tmp_path / "faces", "train")


@pytest.mark.parametrize("damage", ["bit", "zeros", "cut", "empty"])
def test_damaged_records_are_named(damage, prepared, tmp_path):
    """Wherever the damage is noticed: when the file is opened, or when an image is read."""
    shutil.copytree(prepared / "faces", tmp_path / "faces")
    (path,) = (tmp_path / "faces").glob("*-train.array_record*")
    data = bytearray(path.read_bytes())
    middle = data.index(b"\xff\xd8\xff") + 40 if b"\xff\xd8\xff" in data else 4000
    match damage:
        case "bit":
            data[middle] ^= 1
        case "zeros":
            data[middle : middle + 512] = bytes(512)
        case "cut":
            del data[middle:]
        case "empty":
            data.clear()
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"(broken|damaged) record.*array_record.*prepare") as found:
        dataset = sources.open_prepared(tmp_path / "faces", "train")
        for number in range(len(dataset)):
            dataset[number]
    assert "\n" not in str(found.value)
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)  # from a worker process
