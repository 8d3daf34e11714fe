import hashlib
import json

import numpy as np

from softbio_jax.data import sources
from softbio_jax.data.audit import findings, page
from softbio_jax.data.prepare import storage
from tests.data.trees import make_fairface, prepared_split, write_image, write_table


def _audit(root, copy_of="fairface"):
    datasets = [sources.open_prepared(root, split) for split in ("train", "val")]
    digests = [findings.digests_of(d.directory, d.split) for d in datasets]
    found = findings.audit(datasets, sets=[copy_of] * 2, digests=digests)
    return found, datasets


def _leaky(tmp_path):
    raw = make_fairface(tmp_path / "raw", train=12, val=5)
    (raw / "val" / "2.jpg").write_bytes((raw / "train" / "5.jpg").read_bytes())
    (raw / "train" / "8.jpg").write_bytes((raw / "train" / "7.jpg").read_bytes())
    flat = np.full((20, 20, 3), 90, np.uint8)
    (raw / "val" / "4.jpg").write_bytes(storage.encode(flat, "jpeg"))
    prepared_split("fairface", raw, tmp_path / "out", "train")
    return tmp_path / "out"


def test_leaks_duplicates_and_flat_images(tmp_path):
    found, _ = _audit(_leaky(tmp_path))
    verdict = found["verdict"]
    assert verdict["duplicates_across"] == 1
    assert verdict["duplicates_within"] == 1
    assert verdict["nearly_constant"] == 1
    assert verdict["undecodable"] == 0
    leak = next(pair for pair in found["duplicates"] if pair["across"])
    assert leak["first"]["id"] == "train/5.jpg"
    assert leak["second"]["id"] == "val/2.jpg"
    assert leak["kind"] == "exact"
    assert leak["labels_differ"]  # 30-39 male in train, 3-9 female in val
    assert found["splits"]["out/val"]["nearly_constant"] == ["val/4.jpg"]


def test_where_every_image_is_constant_nothing_is_compared(tmp_path):
    raw = make_fairface(tmp_path / "raw", train=6, val=1)
    for number, path in enumerate(sorted(raw.rglob("*.jpg"))):
        path.write_bytes(storage.encode(np.full((20, 20, 3), 20 + number * 30, np.uint8), "jpeg"))
    prepared_split("fairface", raw, tmp_path / "out", "train")
    found, datasets = _audit(tmp_path / "out")
    assert (found["duplicates"], found["groups"]) == ([], [])
    assert found["verdict"]["nearly_constant"] == 7
    assert found["verdict"]["sha256"] in page.as_html(found, datasets)


def test_census_and_counts(tmp_path):
    found, datasets = _audit(_leaky(tmp_path))
    train = found["splits"]["out/train"]
    assert train["examples"] == 12
    assert train["sizes"] == [{"height": 20, "width": 24, "count": 12}]
    assert train["class_counts"]["gender"] == [6, 6]
    assert not train["expected"]["complete"]
    assert train["expected"]["difference"]["rows"] == [12 - 86_744]
    assert json.loads(json.dumps(found)) == found
    text = page.as_html(found, datasets)
    assert found["verdict"]["sha256"] in text
    assert text.count("data:image/jpeg;base64,") == 4


def test_verdict_hash_covers_the_verdict(tmp_path):
    first, _ = _audit(_leaky(tmp_path))
    verdict = dict(first["verdict"])
    told = verdict.pop("sha256")
    assert hashlib.sha256(json.dumps(verdict, sort_keys=True).encode()).hexdigest() == told


def test_persons_in_two_splits(tmp_path):
    header = ("Path", "Gender", "Age", "Ethnicity", "Facial Emotion", "Identity")
    for split, persons in (("train", "abc"), ("val", "cd")):
        rows = []
        for number, person in enumerate(persons):
            name = f"{split}/images/{number}.jpg"
            write_image(tmp_path / "raw" / name, ord(person) + 100 * len(split))
            rows.append((name, 0, 3, "", "", person))
        write_table(tmp_path / "raw" / split / "labels.csv", header, rows)
    prepared_split("standard", tmp_path / "raw", tmp_path / "out", "train")
    found, _ = _audit(tmp_path / "out", copy_of="standard")
    assert found["verdict"]["shared_identities"] == 1
    assert found["shared_identities"][0]["examples"] == ["c"]


def test_undecodable_images_are_listed(tmp_path, monkeypatch):
    out = _leaky(tmp_path)
    original = sources.PreparedDataset.__getitem__

    def lossy(self, example):
        data = original(self, example)
        return data[: len(data) - 60] if (self.split, example) == ("train", 3) else data

    monkeypatch.setattr(sources.PreparedDataset, "__getitem__", lossy)
    found, _ = _audit(out)
    broken = found["splits"]["out/train"]["undecodable"]
    assert [entry["id"] for entry in broken] == ["train/4.jpg"]
    assert found["verdict"]["undecodable"] == 1
