"""Layouts of data sets of emotions."""

import numpy as np

from tests.data.layouts.sets import EMOTIONS, class_folders, counts, fer_table, grey, text
from tests.data.layouts.tree import Tree, images
from tests.data.trees import write_table

SEVEN = counts("emotion", *EMOTIONS)
RAF = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")  # 1 to 7
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")  # 0 to 7
YOLO = ("anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CK = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
VOTES = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "NF"),
)
BOX = "(0, 0, 48, 48)"


def _raf_official(root):
    for name, emotion, *attributes in (("train_00001", 1, 0, 0, 2), ("test_0001", 6, 1, 2, 3)):
        images(root / "basic", f"Image/aligned/{name}_aligned.jpg")
        text(root / f"basic/Annotation/manual/{name}_manu_attri.txt", *["1 2"] * 5, *attributes)
        with (root / "basic" / "list.tmp").open("a") as file:
            file.write(f"{name}.jpg {emotion}\n")
    (root / "basic" / "EmoLabel").mkdir()
    (root / "basic" / "list.tmp").rename(root / "basic" / "EmoLabel" / "list_patition_label.txt")


def _raf_list(root):
    names = ("train_00001", "train_00002", "test_0001")
    images(root, *(f"aligned/{name}_aligned.png" for name in names))
    text(root / "list_partition_label.txt", *(f"{name}.jpg {7 - i}" for i, name in enumerate(names)))


def _raf_numbers(root, train="train", test="test"):
    for split in (train, test):
        class_folders(root / split, *"1234567")
    text(root / "__MACOSX" / train / "1" / "._0.jpg")


def _raf_kaggle(root):
    _raf_numbers(root / "DATASET")
    for split in ("train", "test"):
        rows = [(f"{number}.jpg", number + 1) for number in range(7)]
        write_table(root / f"{split}_labels.csv", ("image", "label"), rows)


def _raf_tables(root):
    for split in ("train", "test"):
        images(root, *(f"{split}/{number}.jpg" for number in range(7)))
        rows = [(f"{number}.jpg", number + 1) for number in range(7)]
        write_table(root / f"{split}_labels.csv", ("image", "label"), rows)


def _affectnet_tables(root, around=("", "")):
    columns = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
    for split, name in (("training", "1/a.jpg"), ("validation", "2/b.jpg")):
        images(root / around[1] / "Manually_Annotated_Images", name)
        rows = [(name, 1, 1, 9, 9, 1), (name, 1, 1, 9, 9, 7), ("none.jpg", "NULL", 0, 0, 0, 10)]
        write_table(root / around[0] / f"{split}.csv", columns, rows)


def _affectnet_notes(root):
    for split in ("train_set", "val_set"):
        images(root / split / "images", *(f"{number}.jpg" for number in range(8)))
        (root / split / "annotations").mkdir()
        for number in range(8):
            np.save(root / split / "annotations" / f"{number}_exp.npy", str(number))


def _affectnet_paths(root, *splits):
    rows = []
    for number, name in enumerate(AFFECTNET):
        path = f"{name}/image{number}.jpg"
        images(root / (splits[number % 2] if splits else ""), path)
        rows.append((number, path, name, 0.8))
    # The table knows better than the folder.
    rows[0] = (0, rows[0][1], "sad", 0.9)
    write_table(root / "labels.csv", ("", "pth", "label", "relFCs"), rows)


def _affectnet_yolo(root, named=None):
    for split in ("train", "valid"):
        images(root / "YOLO_format" / split / "images", *(f"{number}.png" for number in range(8)))
        for number in range(8):
            text(root / "YOLO_format" / split / "labels" / f"{number}.txt", f"{number} 0.5 0.5 0.9 0.9")
    if named:
        text(root / "YOLO_format" / "data.yaml", "nc: 8", f"names: {list(named)}")


def _fer_table(root, name="fer2013.csv", header=("emotion", "pixels", "Usage")):
    fer_table(root / name, [(3, "Training"), (0, "PublicTest"), (6, "PrivateTest")], header)


def _fer_challenge(root):
    write_table(root / "train.csv", ("emotion", "pixels"), [(n, grey(n)) for n in range(7)])
    write_table(root / "test.csv", ("pixels",), [(grey(9),)])


def _two_splits(root, *names, splits=("train", "test"), end=".png", mode="RGB"):
    for split in splits:
        class_folders(root / split, *names, end=end, mode=mode)


def _voted(winner):
    return [8 if name == winner else 0 for name in VOTES]


def _ferplus_votes(root, around=""):
    rows = []
    for number, (usage, winner) in enumerate(
        [("Training", "fear"), ("Training", "contempt"), ("PublicTest", "anger"), ("PrivateTest", "NF")]
    ):
        folder = {"Training": "FER2013Train", "PublicTest": "FER2013Valid"}.get(usage, "FER2013Test")
        name = f"fer{number:07d}.png" if winner != "NF" else ""
        images(root / around / folder, f"fer{number:07d}.png")
        rows.append((usage, name, *_voted(winner)))
    write_table(root / "fer2013new.csv", ("Usage", "Image name", *VOTES), rows)


def _ferplus_folders(root):
    for number, folder in enumerate(("FER2013Train", "FER2013Valid", "FER2013Test")):
        names = [f"fer{10 * number + i:07d}.png" for i in range(3)]
        images(root / folder, *names)
        winners = ("happiness", "sadness", "unknown")
        lines = [
            f'{name},"{BOX}",{",".join(map(str, _voted(winner)))}'
            for name, winner in zip(names, winners, strict=True)
        ]
        text(root / folder / "label.csv", *lines)


def _ferplus_table(root):
    _fer_table(root)
    rows = [(usage, "", *_voted("surprise")) for usage in ("Training", "PublicTest", "PrivateTest")]
    write_table(root / "fer2013new.csv", ("Usage", "Image name", *VOTES), rows)


def _ck_sequences(root, pictures="cohn-kanade-images", notes="Emotion"):
    for number, (subject, sequence) in enumerate((("S005", "001"), ("S010", "002"), ("S010", "003"))):
        stem = f"{subject}/{sequence}/{subject}_{sequence}_"
        images(root, *(f"{pictures}/{stem}{frame:08d}.png" for frame in (1, 2, 11)))
        if number < 2:
            text(root / notes / f"{stem}00000011_emotion.txt", f"   {3 + 2 * number}.0000000e+00")
    (root / notes / "S010" / "003").mkdir(parents=True)


def _ck_48(root):
    for number, name in enumerate(("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")):
        images(root / "CK+48" / name, f"S0{10 + number}_004_00000017.png")


def _ck_table(root):
    rows = [(n, "Training") for n in range(8)] + [(0, "PublicTest"), (6, "PrivateTest")]
    fer_table(root / "ckextended.csv", rows)


def _jaffe(root, *folders, end="tiff"):
    codes = ("AN1.39", "DI2.42", "FE3.47", "HA1.29", "NE1.26", "SA2.34", "SU3.38")
    folders = folders or ("",) * 7
    for number, (code, folder) in enumerate(zip(codes, folders, strict=True)):
        path = root / folder / f"K{'AMNRL'[number % 5]}.{code}.{end}"
        images(root, path.relative_to(root).as_posix())
    text(root / "README.txt", "JAFFE")


def _expw(root, list_="label/label.lst", pictures="image/origin"):
    images(root / pictures, "a_1.jpg", "b_2.jpg")
    lines = [f"a_1.jpg {n} 2 3 12 13 70.5 {n}" for n in range(7)] + ["b_2.jpg 0 9 3 12 9 60.1 3"]
    text(root / list_, *lines)


def _tree(data_set, name, layout, make, splits=(), *, flags="", **more):
    classes = more.pop("classes", {split: SEVEN for split in splits})
    flags = f"--dataset={data_set}{flags}"
    return Tree(name=f"{data_set}_{name}", layout=layout, flags=flags, make=make, classes=classes, **more)


_HAPPY, _CK_TWO = counts("emotion", "happy"), counts("emotion", "disgust", "happy")
_NAMED = {"emotion": {"angry": 1, "disgust": 1, "fear": 1, "happy": 1, "sad": 2, "surprise": 1}}

TREES = (
    _tree(
        "rafdb",
        "official",
        "`basic/` with `Image/aligned/`, `EmoLabel/`, `Annotation/manual/`",
        _raf_official,
        classes={
            "train": counts("gender", "male") | counts("emotion", "surprise"),
            "test": counts("gender", "female") | counts("emotion", "angry"),
        },
        proposed=True,
    ),
    _tree(
        "rafdb",
        "list",
        "`list_patition_label.txt` with `aligned/`",
        _raf_list,
        classes={"train": counts("emotion", "neutral", "angry"), "test": counts("emotion", "sad")},
        proposed=True,
    ),
    _tree("rafdb", "numbers", "`{train,test}/{1..7}/`", _raf_numbers, ("train", "test"), proposed=True),
    _tree(
        "rafdb",
        "names",
        "`{train,test}/{surprise,...}/`",
        lambda root: _two_splits(root, *RAF),
        ("train", "test"),
    ),
    _tree(
        "rafdb",
        "other_case",
        "`raf/Basic/TRAIN/{1..7}/`, `Valid/`",
        lambda root: _raf_numbers(root / "raf" / "Basic", "TRAIN", "Valid"),
        ("train", "val"),
    ),
    _tree(
        "rafdb",
        "kaggle",
        "`DATASET/{train,test}/{1..7}/`, `{train,test}_labels.csv`",
        _raf_kaggle,
        ("train", "test"),
    ),
    _tree(
        "rafdb",
        "tables",
        "`{train,test}_labels.csv` (image, label), `{train,test}/`",
        _raf_tables,
        ("train", "test"),
    ),
    _tree(
        "affectnet",
        "tables",
        "`{training,validation}.csv`, `Manually_Annotated_Images/`",
        _affectnet_tables,
        classes={"train": _HAPPY, "val": _HAPPY},
        skipped=4,
        proposed=True,
    ),
    _tree(
        "affectnet",
        "archives",
        "`Manually_Annotated_file_lists/`, `Manually_Annotated/Manually_Annotated_Images/`",
        lambda root: _affectnet_tables(root, ("Manually_Annotated_file_lists", "Manually_Annotated")),
        classes={"train": _HAPPY, "val": _HAPPY},
        skipped=4,
    ),
    _tree(
        "affectnet",
        "annotations",
        "`{train_set,val_set}/{images,annotations}/`",
        _affectnet_notes,
        ("train", "val"),
        skipped=2,
        proposed=True,
    ),
    _tree(
        "affectnet",
        "numbers",
        "`{train,val}/{0..7}/`",
        lambda root: _two_splits(root, *"01234567", splits=("train", "val")),
        ("train", "val"),
        skipped=2,
    ),
    _tree(
        "affectnet",
        "seven_numbers",
        "`{train,val}/{0..6}/`",
        lambda root: _two_splits(root, *"0123456", splits=("train", "val")),
        ("train", "val"),
    ),
    _tree(
        "affectnet",
        "names",
        "`{Train,Test}/{neutral,...,contempt}/`",
        lambda root: _two_splits(root, *AFFECTNET, splits=("Train", "Test")),
        ("train", "test"),
        skipped=2,
    ),
    _tree(
        "affectnet",
        "labels",
        "`labels.csv` (pth, label, relFCs), `{anger,...}/`",
        _affectnet_paths,
        classes={"train": _NAMED},
        skipped=1,
        proposed=True,
    ),
    _tree(
        "affectnet",
        "labels_in_splits",
        "`labels.csv`, `{Train,Test}/{anger,...}/`",
        lambda root: _affectnet_paths(root, "Train", "Test"),
        classes={
            "train": {"emotion": {"sad": 2, "fear": 1, "angry": 1}},
            "test": counts("emotion", "happy", "surprise", "disgust"),
        },
        skipped=1,
    ),
    _tree(
        "affectnet",
        "yolo",
        "`YOLO_format/{train,valid}/{images,labels}/`",
        _affectnet_yolo,
        ("train", "val"),
        skipped=2,
    ),
    _tree(
        "affectnet",
        "yolo_named",
        "the same with `data.yaml`",
        lambda root: _affectnet_yolo(root, reversed(YOLO)),
        ("train", "val"),
        skipped=2,
    ),
    _tree(
        "fer2013",
        "table",
        "`fer2013.csv` (emotion, pixels, Usage)",
        _fer_table,
        classes={"train": _HAPPY, "val": counts("emotion", "angry"), "test": counts("emotion", "neutral")},
        proposed=True,
    ),
    _tree(
        "fer2013",
        "icml",
        "`fer2013/icml_face_data.csv` (emotion, Usage, pixels)",
        lambda root: _fer_table(root, "fer2013/icml_face_data.csv", ("emotion", " Usage", " pixels")),
        classes={"train": _HAPPY, "val": counts("emotion", "angry"), "test": counts("emotion", "neutral")},
    ),
    _tree(
        "fer2013",
        "challenge",
        "`train.csv` (emotion, pixels), `test.csv`",
        _fer_challenge,
        ("train",),
        proposed=True,
    ),
    _tree(
        "fer2013",
        "names",
        "`{train,test}/{angry,...}/`",
        lambda root: _two_splits(root, *EMOTIONS),
        ("train", "test"),
    ),
    _tree(
        "fer2013",
        "numbers",
        "`archive/{train,validation,test}/{0..6}/`",
        lambda root: _two_splits(
            root / "archive", *"0123456", splits=("train", "validation", "test"), mode="L"
        ),
        ("train", "val", "test"),
    ),
    _tree(
        "ferplus",
        "votes",
        "`fer2013new.csv`, `FER2013{Train,Valid,Test}/`",
        _ferplus_votes,
        classes={"train": counts("emotion", "fear"), "val": counts("emotion", "angry"), "test": {}},
        skipped=2,
        proposed=True,
    ),
    _tree(
        "ferplus",
        "repository",
        "`fer2013new.csv`, `data/FER2013{Train,Valid,Test}/`",
        lambda root: _ferplus_votes(root, "data"),
        classes={"train": counts("emotion", "fear"), "val": counts("emotion", "angry"), "test": {}},
        skipped=2,
    ),
    _tree(
        "ferplus",
        "folders",
        "`FER2013{Train,Valid,Test}/label.csv`",
        _ferplus_folders,
        classes=dict.fromkeys(("train", "val", "test"), counts("emotion", "happy", "sad")),
        skipped=3,
        proposed=True,
    ),
    _tree(
        "ferplus",
        "table",
        "`fer2013new.csv`, `fer2013.csv`",
        _ferplus_table,
        classes=dict.fromkeys(("train", "val", "test"), counts("emotion", "surprise")),
    ),
    _tree(
        "ferplus",
        "names",
        "`{train,validation,test}/{angry,...,contempt}/`",
        lambda root: _two_splits(root, *EMOTIONS, "contempt", splits=("train", "validation", "test")),
        ("train", "val", "test"),
        skipped=3,
    ),
    _tree(
        "ck_plus",
        "sequences",
        "`cohn-kanade-images/`, `Emotion/`",
        _ck_sequences,
        classes={"train": _CK_TWO},
        skipped=1,
        proposed=True,
    ),
    _tree(
        "ck_plus",
        "archives",
        "`extended-cohn-kanade-images/cohn-kanade-images/`, `Emotion_labels/Emotion/`",
        lambda root: _ck_sequences(
            root, "extended-cohn-kanade-images/cohn-kanade-images", "Emotion_labels/Emotion"
        ),
        classes={"train": _CK_TWO},
        skipped=1,
    ),
    _tree(
        "ck_plus",
        "names",
        "`CK+48/{anger,...}/S010_004_00000017.png`",
        _ck_48,
        classes={"train": counts("emotion", *EMOTIONS[:-1])},
        skipped=1,
        proposed=True,
    ),
    _tree(
        "ck_plus",
        "divided",
        "the same, divided by subject",
        _ck_48,
        flags=" --split=0.5",
        classes={
            "train": counts("emotion", "angry", "disgust", "fear"),
            "test": counts("emotion", "happy", "sad", "surprise"),
        },
        skipped=1,
    ),
    _tree(
        "ck_plus",
        "table",
        "`ckextended.csv` (emotion, pixels, Usage)",
        _ck_table,
        classes={"train": SEVEN, "val": counts("emotion", "angry"), "test": counts("emotion", "neutral")},
        skipped=1,
        proposed=True,
    ),
    _tree(
        "jaffe", "names", "`jaffe/KA.AN1.39.tiff`", lambda root: _jaffe(root / "jaffe"), ("train",), skipped=1
    ),
    _tree(
        "jaffe",
        "folders",
        "`{train,test}/{angry,...}/KA.AN1.39.jpg`",
        lambda root: _jaffe(root, *(f"{'train' if n < 4 else 'test'}/{n}" for n in range(7)), end="jpg"),
        classes={
            "train": counts("emotion", "angry", "disgust", "fear", "happy"),
            "test": counts("emotion", "neutral", "sad", "surprise"),
        },
    ),
    _tree(
        "expw",
        "list",
        "`label/label.lst`, `image/origin/`",
        _expw,
        ("train",),
        rejected=1,
        proposed=True,
        flags=" --max_rejected=0.2",
    ),
    _tree(
        "expw",
        "nested",
        "`ExpW/label.lst`, `ExpW/origin/`",
        lambda root: _expw(root / "ExpW", "label.lst", "origin"),
        ("train",),
        rejected=1,
    ),
    _tree("expw", "names", "`{angry,...}/`", lambda root: class_folders(root, *EMOTIONS), ("train",)),
    _tree(
        "mma_fer",
        "names",
        "`MMAFEDB/{train,valid,test}/{angry,...}/`",
        lambda root: _two_splits(root / "MMAFEDB", *EMOTIONS, splits=("train", "valid", "test")),
        ("train", "val", "test"),
    ),
)
