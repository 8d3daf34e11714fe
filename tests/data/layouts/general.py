"""Layouts that the general readers take: class folders, tables and Parquet files."""

import gzip
import json
import pathlib
from typing import Any

from tests.data.layouts.tree import Classes, Tree, images
from tests.data.trees import encode

WORDS = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
PEOPLE = [("0.jpg", "20-29", "male"), ("1.jpg", "70+", "female"), ("2.jpg", "3-9", "female")]
THREE: Classes = {"train": {"age": {"3-9": 1, "20-29": 1, "70+": 1}, "gender": {"male": 1, "female": 2}}}


def table(root: pathlib.Path, name: str, rows, *, header=("file", "age", "gender"), mark=",") -> None:
    """Writes a table and the images in its first column, beside it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(mark.join(map(str, row)) + "\n" for row in (header, *rows))
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    images(path.parent, *(row[0] for row in rows))


def lines(root: pathlib.Path, name: str, rows, *, header=("file", "age", "gender")) -> None:
    """Writes a table as JSON lines, and its images."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = [dict(zip(header, row, strict=True)) for row in rows]
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    images(path.parent, *(row[0] for row in rows))


def parquet(
    path: pathlib.Path, columns: dict[str, Any], *, names: dict[str, list[str]] | None = None, **options
):
    """Writes a Parquet file, with the names of classes as Hugging Face describes them."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    if names is not None:
        features = {name: {"names": words, "_type": "ClassLabel"} for name, words in names.items()}
        about = json.dumps({"info": {"features": {"image": {"_type": "Image"}} | features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, **options)


def struct(*seeds: int) -> list[dict[str, Any]]:
    return [{"bytes": encode(seed), "path": f"{seed}.jpg"} for seed in seeds]


def _byte_lists(*seeds):
    import pyarrow

    return pyarrow.array([list(encode(seed)) for seed in seeds], pyarrow.list_(pyarrow.uint8()))


def _numbers(root):
    images(root, *(f"train/{n}/0.jpg" for n in range(1, 8)), *(f"test/{n}/0.jpg" for n in range(1, 8)))


def _quoted(root):
    images(root, "a, b.jpg", "c.jpg")
    text = '\ufeff"file", "age", "gender"\r\n"a, b.jpg", "20-29", "male"\r\n\r\n"c.jpg", "3-9", ""\r\n'
    (root / "labels.csv").write_text(text, newline="")


def _two_tables(root, *names):
    table(root, names[0], [("a/0.jpg", "20-29", "male"), ("a/1.jpg", "3-9", "male")])
    table(root, names[1], [("b/0.jpg", "70+", "female")])


def _json_list(root):
    images(root, "0.jpg", "1.jpg")
    rows = [{"image": {"path": "0.jpg"}, "label": "joy"}, {"image": {"path": "1.jpg"}, "label": None}]
    (root / "labels.json").write_text(json.dumps(rows))


def _subjects(root):
    rows = [(f"{number}.jpg", "male", f"p{number // 4}") for number in range(40)]
    table(root, "labels.csv", rows, header=("file", "gender", "subject"))


def _hub(root):
    emotions = ["anger", "surprise", "contempt", "happy", "neutral", "fear", "sad", "disgust"]
    for shard, split, numbers in ((0, "train", (0, 1)), (1, "train", (2, 3)), (0, "validation", (4, -1))):
        path = root / "data" / f"{split}-{shard:05d}-of-{2 if split == 'train' else 1:05d}.parquet"
        parquet(
            path, {"image": struct(*range(len(numbers))), "label": list(numbers)}, names={"label": emotions}
        )


def _fairface(root):
    ages = ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"]
    races = ["East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"]
    names = {"age": ages, "gender": ["Male", "Female"], "race": races, "service_test": None}
    columns = {"age": [0, 8, 3], "gender": [0, 1, 1], "race": [3, 0, 6], "service_test": [True, False, True]}
    for version in ("0.25", "1.25"):
        path = root / version / "train-00000-of-00001.parquet"
        parquet(path, {"image": struct(1, 2, 3), **columns}, names={n: w for n, w in names.items() if w})


def _fer_paths(root):
    images(root, "img/0.jpg", "img/1.jpg")
    import pyarrow

    words = pyarrow.array(["happiness", "fear"]).dictionary_encode()
    parquet(root / "fer.parquet", {"file": ["img/0.jpg", "img/1.jpg"], "emotion": words})


def _flat(root):
    """As pandas writes a frame of normalised records, with its index."""
    columns = {"image.bytes": [encode(1), encode(2)], "image.path": ["1.jpg", "2.jpg"], "sex": ["F", "M"]}
    parquet(root / "train.parquet", columns | {"__index_level_0__": [7, 3]})


TREES = (
    Tree(
        name="csv_columns",
        layout="a table with any columns",
        flags="--dataset=csv --columns='path=name,age=how old,gender=sex' --values=gender:W=female",
        source="people.csv",
        make=lambda root: table(
            root, "people.csv", [("0.jpg", "20-29", "W")], header=("name", "how old", "sex")
        ),
        classes={"train": {"age": {"20-29": 1}, "gender": {"female": 1}}},
    ),
    Tree(
        name="csv_divided",
        layout="a table without splits, with a column of subjects",
        flags="--dataset=csv --split=0.5",
        source="labels.csv",
        make=_subjects,
        classes={"train+test": {"gender": {"male": 40}}},
    ),
    Tree(
        name="csv_folder_of_tables",
        layout="a folder with `train_labels.csv` and `test_labels.csv`",
        flags="--dataset=csv",
        make=lambda root: _two_tables(root, "train_labels.csv", "test_labels.csv"),
        classes={
            "train": {"age": {"3-9": 1, "20-29": 1}, "gender": {"male": 2}},
            "test": {"age": {"70+": 1}, "gender": {"female": 1}},
        },
        proposed=True,
    ),
    Tree(
        name="csv_gzip",
        layout="a table compressed by gzip",
        flags="--dataset=csv",
        source="labels.csv.gz",
        make=lambda root: table(root, "labels.csv.gz", PEOPLE),
        classes=THREE,
        proposed=True,
    ),
    Tree(
        name="csv_json",
        layout="a list of objects, `labels.json`",
        flags="--dataset=csv",
        source="labels.json",
        make=_json_list,
        classes={"train": {"emotion": {"happy": 1}}},
        skipped=1,
        proposed=True,
    ),
    Tree(
        name="csv_json_lines",
        layout="an object per line, `labels.jsonl`",
        flags="--dataset=csv",
        source="labels.jsonl",
        make=lambda root: lines(root, "labels.jsonl", PEOPLE),
        classes=THREE,
        proposed=True,
    ),
    Tree(
        name="csv_label",
        layout="a table whose column `label` has words of one task",
        flags="--dataset=csv --values=emotion:contempt=",
        source="labels.csv",
        make=lambda root: table(
            root,
            "labels.csv",
            [("0.png", "happiness"), ("1.png", "contempt"), ("2.png", "Anger")],
            header=("image", "label"),
        ),
        classes={"train": {"emotion": {"happy": 1, "angry": 1}}},
        skipped=1,
    ),
    Tree(
        name="csv_male",
        layout="a table of attributes with a column `Male` of 1 and -1",
        flags="--dataset=csv",
        source="attributes.csv",
        make=lambda root: table(
            root,
            "attributes.csv",
            [("1.jpg", -1, -1), ("2.jpg", 1, 1), ("3.jpg", 1, -1)],
            header=("image_id", "Eyeglasses", "Male"),
        ),
        classes={"train": {"gender": {"male": 1, "female": 2}}},
        proposed=True,
    ),
    Tree(
        name="csv_metadata",
        layout="images and `metadata.csv` with `file_name`",
        flags="--dataset=csv",
        make=lambda root: table(root, "metadata.csv", PEOPLE, header=("file_name", "age", "gender")),
        classes=THREE,
        proposed=True,
    ),
    Tree(
        name="csv_metadata_json",
        layout="`{split}/metadata.jsonl` beside the images of each split",
        flags="--dataset=csv",
        make=lambda root: [
            lines(root, f"{split}/metadata.jsonl", rows, header=("file_name", "age", "gender"))
            for split, rows in (("train", PEOPLE), ("validation", PEOPLE[:1]))
        ],
        classes=THREE | {"val": {"age": {"20-29": 1}, "gender": {"male": 1}}},
        proposed=True,
    ),
    Tree(
        name="csv_metadata_paths",
        layout="`{split}/` and one `metadata.csv`, whose paths start with the split",
        flags="--dataset=csv",
        make=lambda root: table(
            root,
            "metadata.csv",
            [("train/0.jpg", "joy"), ("test/0.jpg", "sad")],
            header=("file_name", "emotion"),
        ),
        classes={"train": {"emotion": {"happy": 1}}, "test": {"emotion": {"sad": 1}}},
        proposed=True,
    ),
    Tree(
        name="csv_quoted",
        layout="quoted values, a byte order mark, Windows' line ends",
        flags="--dataset=csv",
        source="labels.csv",
        make=_quoted,
        classes={"train": {"age": {"3-9": 1, "20-29": 1}, "gender": {"male": 1}}},
        proposed=True,
    ),
    Tree(
        name="csv_semicolons",
        layout="semicolons between the values",
        flags="--dataset=csv",
        source="labels.csv",
        make=lambda root: table(root, "labels.csv", PEOPLE, mark=";"),
        classes=THREE,
        proposed=True,
    ),
    Tree(
        name="csv_split_column",
        layout="a table with a column of splits",
        flags="--dataset=csv",
        source="labels.csv",
        make=lambda root: table(
            root,
            "labels.csv",
            [("0.jpg", "m", "train"), ("1.jpg", "f", "test")],
            header=("path", "sex", "split"),
        ),
        classes={"train": {"gender": {"male": 1}}, "test": {"gender": {"female": 1}}},
        proposed=True,
    ),
    Tree(
        name="csv_tables",
        layout="a table for each split: `train.csv`, `test.csv`",
        flags="--dataset=csv --columns=path=file,age=age,gender=gender",
        source="lists/train.csv,lists/test.csv",
        make=lambda root: _two_tables(root, "lists/train.csv", "lists/test.csv"),
        classes={
            "train": {"age": {"3-9": 1, "20-29": 1}, "gender": {"male": 2}},
            "test": {"age": {"70+": 1}, "gender": {"female": 1}},
        },
    ),
    Tree(
        name="csv_tabs",
        layout="tabs between the values, `labels.tsv`",
        flags="--dataset=csv",
        source="labels.tsv",
        make=lambda root: table(root, "labels.tsv", PEOPLE, mark="\t"),
        classes=THREE,
        proposed=True,
    ),
    Tree(
        name="csv_years",
        layout="ages in years",
        flags="--dataset=csv --age_values=years",
        source="labels.csv",
        make=lambda root: table(
            root,
            "labels.csv",
            [("0.jpg", "25"), ("1.jpg", "71.0"), ("2.jpg", "34 years"), ("3.jpg", "1985"), ("4.jpg", "nan")],
            header=("file", "age"),
        ),
        classes={"train": {"age": {"20-29": 1, "30-39": 1, "70+": 1}}},
        rejected=1,
        skipped=1,
    ),
    Tree(
        name="folder_classes",
        layout="`{class}/`",
        flags="--dataset=folder --task=emotion --split=0.8",
        make=lambda root: images(
            root, *(f"{word}/{number}.jpg" for word in ("happy", "Anger") for number in range(9))
        ),
        classes={"train+test": {"emotion": {"happy": 9, "angry": 9}}},
        proposed=True,
    ),
    Tree(
        name="folder_language",
        layout="`{split}/{class}/` with names in another language",
        flags="--dataset=folder --task=gender --values='gender:Männer=male,gender:Frauen=female'",
        make=lambda root: images(root, "train/Männer/0.jpg", "train/Frauen/0.jpg", "train/Frauen/1.jpg"),
        classes={"train": {"gender": {"male": 1, "female": 2}}},
    ),
    Tree(
        name="folder_left_out",
        layout="`{split}/{class}/` with a class that the task lacks",
        flags="--dataset=folder --task=emotion --values=emotion:contempt=",
        make=lambda root: images(root, "train/happy/0.jpg", "train/contempt/0.jpg", "train/contempt/1.jpg"),
        classes={"train": {"emotion": {"happy": 1}}},
        skipped=2,
    ),
    Tree(
        name="images_without_labels",
        layout="images at any depth, without labels",
        flags="--dataset=images",
        make=lambda root: images(root, "0.jpg", "inner/1.jpg"),
        classes={"train": {}},
    ),
    Tree(
        name="folder_numbers",
        layout="`{split}/{number}/`",
        flags="--dataset=folder --task=emotion --values="
        + ",".join(f"emotion:{number}={word}" for number, word in enumerate(WORDS, 1)),
        make=_numbers,
        classes={split: {"emotion": dict.fromkeys(WORDS, 1)} for split in ("train", "test")},
    ),
    Tree(
        name="folder_ranges",
        layout="`{split}/{ages}/`, each range inside one class",
        flags="--dataset=folder --task=age",
        make=lambda root: images(root, "train/(0, 2)/0.jpg", "train/20-24/0.jpg", "train/75+/0.jpg"),
        classes={"train": {"age": {"0-2": 1, "20-29": 1, "70+": 1}}},
        proposed=True,
    ),
    Tree(
        name="folder_splits",
        layout="`{split}/{class}/`",
        flags="--dataset=folder --task=emotion",
        make=lambda root: images(root, "train/happy/0.jpg", "train/anger/x/1.jpg", "test/happy/2.jpg"),
        classes={"test": {"emotion": {"happy": 1}}, "train": {"emotion": {"happy": 1, "angry": 1}}},
        proposed=True,
    ),
    Tree(
        name="folder_years",
        layout="`{years}/`: `001/`, `026/`, ...",
        flags="--dataset=folder --task=age --age_values=years --split=0.5",
        make=lambda root: images(
            root, *(f"{age}/{n}.jpg" for age in ("001", "026", "110") for n in range(4))
        ),
        classes={"train+test": {"age": {"0-2": 4, "20-29": 4, "70+": 4}}},
        proposed=True,
    ),
    Tree(
        name="parquet_binary",
        layout="`train.parquet` with a binary column of images",
        flags="--dataset=parquet",
        make=lambda root: parquet(
            root / "train.parquet", {"img": [encode(1), encode(2)], "gender": ["male", "f"]}
        ),
        classes={"train": {"gender": {"male": 1, "female": 1}}},
        proposed=True,
    ),
    Tree(
        name="parquet_celeba_hq",
        layout="a copy of CelebA-HQ: `label` with the names female and male",
        flags="--dataset=parquet",
        make=lambda root: parquet(
            root / "data" / "train-00000-of-00001-0a1b.parquet",
            {"image": struct(1, 2, 3), "label": [0, 0, 1]},
            names={"label": ["female", "male"]},
        ),
        classes={"train": {"gender": {"male": 1, "female": 2}}},
        proposed=True,
    ),
    Tree(
        name="parquet_fairface",
        layout="a copy of FairFace: one version of `0.25/` and `1.25/`, numbers with names",
        flags="--dataset=parquet",
        source="0.25",
        make=_fairface,
        classes={"train": {"age": {"0-2": 1, "20-29": 1, "70+": 1}, "gender": {"male": 1, "female": 2}}},
    ),
    Tree(
        name="parquet_flat",
        layout="columns `image.bytes` and `image.path`, as pandas writes them, with its index",
        flags="--dataset=parquet",
        make=_flat,
        classes={"train": {"gender": {"male": 1, "female": 1}}},
        proposed=True,
    ),
    Tree(
        name="parquet_folders",
        layout="`default/{split}/0000.parquet`",
        flags="--dataset=parquet",
        make=lambda root: [
            parquet(root / "default" / split / "0000.parquet", {"image": struct(1), "sex": ["m"]})
            for split in ("train", "test")
        ],
        classes={split: {"gender": {"male": 1}} for split in ("train", "test")},
        proposed=True,
    ),
    Tree(
        name="parquet_hub",
        layout="`data/{split}-00000-of-00002.parquet`, images as bytes and path, `label` with names",
        flags="--dataset=parquet --values=emotion:contempt=",
        make=_hub,
        classes={
            "train": {"emotion": {"surprise": 1, "happy": 1, "angry": 1}},
            "val": {"emotion": {"neutral": 1}},
        },
        skipped=2,
    ),
    Tree(
        name="parquet_lists",
        layout="images as lists of bytes",
        flags="--dataset=parquet",
        make=lambda root: parquet(root / "faces.parquet", {"image": _byte_lists(1, 2), "sex": ["m", "f"]}),
        classes={"train": {"gender": {"male": 1, "female": 1}}},
        proposed=True,
    ),
    Tree(
        name="parquet_numbers",
        layout="numbers that the file has no names for",
        flags="--dataset=parquet --values=gender:1=male,gender:2=female",
        make=lambda root: parquet(root / "train.parquet", {"image": struct(1, 2), "gender": [1.0, 2.0]}),
        classes={"train": {"gender": {"male": 1, "female": 1}}},
    ),
    Tree(
        name="parquet_paths",
        layout="paths of images beside it, words as a dictionary",
        flags="--dataset=parquet",
        make=_fer_paths,
        classes={"train": {"emotion": {"fear": 1, "happy": 1}}},
        proposed=True,
    ),
    Tree(
        name="parquet_utkface",
        layout="a copy of UTKFace: `age` in years, `gender` with names",
        flags="--dataset=parquet --age_values=years",
        make=lambda root: parquet(
            root / "data" / "train-00000-of-00001.parquet",
            {"image": struct(1, 2, 3), "age": [26, 1, 116], "gender": [0, 1, 0]},
            names={"gender": ["Male", "Female"]},
        ),
        classes={"train": {"age": {"0-2": 1, "20-29": 1, "70+": 1}, "gender": {"male": 2, "female": 1}}},
    ),
)
