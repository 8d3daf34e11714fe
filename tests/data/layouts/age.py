"""Layouts of data sets of ages and genders."""

from tests.data.layouts.sets import celeba_lists, class_folders, counts, grey, text
from tests.data.layouts.tree import Tree, images
from tests.data.trees import make_fairface, write_table

MALE, FEMALE = counts("gender", "male"), counts("gender", "female")
YOUNG_MAN = counts("age", "20-29") | MALE
GIRL = counts("age", "3-9") | FEMALE
BOTH = counts("age", "3-9", "20-29") | counts("gender", "male", "female")
UTK = ("26_0_1_20170116184024662.jpg.chip.jpg", "5_1_3_20161220222308131.jpg.chip.jpg")
BAD_UTK = ("61_1_20170109142408075.jpg.chip.jpg", "53__0_20170116184028385.jpg", "200_0_0_20170116.jpg")
AGEDB = ("0_MariaCallas_5_f.jpg", "1_Some_One_26_m.jpg")
MORPH = ("009055_0F05.JPG", "100012_1M26.JPG")
ADIENCE = (
    *("user_id", "original_image", "face_id", "age", "gender", "x", "y", "dx", "dy"),
    *("tilt_ang", "fiducial_yaw_angle", "fiducial_score"),
)


def _fairface(root, tables="fairface_label_{}.csv", archive=""):
    make_fairface(root, train=2, val=1)
    for split in ("train", "val"):
        (root / f"fairface_label_{split}.csv").rename(root / tables.format(split))
        if archive:
            (root / archive).mkdir(exist_ok=True)
            (root / split).rename(root / archive / split)


def _lagenda(root, name="lag_benchmark/{}.jpg", suffix="jpg"):
    images(root, *(f"lag_benchmark/{n}.{suffix}" for n in (1, 2)))
    header = ("img_name", "age", "gender", "face_x0", "face_y0", "face_x1", "face_y1")
    rows = [(1, 5, "F", 1, 1, 9, 9), (2, 26, "M", 1, 1, 9, 9), (2, -1, "-1", 1, 1, 9, 9)]
    write_table(root / "lagenda_annotation.csv", header, [(name.format(n), *row) for n, *row in rows])


def _utk_pixels(root):
    header = ("age", "ethnicity", "gender", "img_name", "pixels")
    rows = [(26, 1, 0, "a.chip.jpg", grey(0)), (5, 3, 1, "b.chip.jpg", grey(1)), (130, 3, 1, "c", grey(2))]
    write_table(root / "age_gender.csv", header, rows)


def _vggface2(root, splits=("train", "val"), meta=""):
    for number, split in enumerate(splits):
        images(root, f"{split}/n00000{number + 1}/0001_01.jpg")
    lines = [
        "Class_ID, Name, Sample_Num, Flag, Gender",
        'n000001, "A_B", 424, 0, m',
        'n000002, "C,_D", 3, 1, f',
    ]
    text(
        (root / splits[0]).parent.parent / meta / "identity_meta.csv" if meta else root / "identity_meta.csv",
        *lines,
    )


def _imdb(root, csvs="csvs", pictures="data/imdb-clean-1024"):
    header = ("filename", "age", "gender", "x_min", "y_min", "x_max", "y_max")
    for split, row in (("train", (26, "M")), ("valid", (5, "F")), ("test", (2014, "M"))):
        images(root / pictures, f"0{len(split)}/nm1.jpg")
        rows = [(f"0{len(split)}/nm1.jpg", *row, 1, 1, 9, 9)]
        write_table(root / csvs / f"imdb_{split}_new_1024.csv", header, rows)


def _adience(root, pictures="aligned", prefix="landmark_aligned_face", folds="fold_{}_data.txt"):
    for number in range(5):
        images(root / pictures / "30601258@N03", f"{prefix}.{number}.a_o.jpg", f"{prefix}.9.b{number}_o.jpg")
        rows = [("a_o.jpg", number, "(4, 6)", "f"), (f"b{number}_o.jpg", 9, "(25, 32)", "m")]
        lines = [
            [f"30601258@N03\t{image}\t{face}\t{age}\t{gender}" + "\t0" * 7]
            for image, face, age, gender in rows
        ]
        text(root / folds.format(number), "\t".join(ADIENCE), *(line for (line,) in lines))


def _appa(root, face="_face.jpg"):
    header = ("file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age")
    for number, (split, apparent, real) in enumerate(
        (("train", 5.4, 26), ("valid", 5.4, 26), ("test", 5.4, 26))
    ):
        name = f"00000{number}.jpg"
        images(root / split, f"{name}{face}")
        if face:
            images(root / split, name)
        write_table(root / f"gt_avg_{split}.csv", header, [(name, 38, apparent, 2.1, real)])


def _morph(root):
    header = (
        *("id_num", "picture_num", "dob", "doa", "race", "gender"),
        *("facial_hair", "age", "age_diff", "glasses", "photo"),
    )
    about = ("1", "10/22/1948", "01/28/2004")
    rows = [("009055", *about, "B", "F", "NULL", 5, 0, "NULL", f"Album2/{MORPH[0]}")]
    rows += [("100012", *about, "W", "M", "NULL", 26, 1, "NULL", f"Album2\\{MORPH[1]}")]
    images(root, *(f"Album2/{name}" for name in MORPH))
    write_table(root / "morph_2008_nonCommercial.csv", header, rows)


def _morph_index(root, names=(*MORPH, "plain.jpg")):
    for split, name in zip(("Train", "Validation", "Test"), names, strict=True):
        images(root / "Dataset" / "Images" / split, name)
        rows = [(26, 0, name, f"/home/someone/Dataset/Images/{split}/{name}")]
        write_table(
            root / "Dataset" / "Index" / f"{split}.csv", ("age", "gender", "filename", "filepath"), rows
        )


def _celeba(root, pictures="img_align_celeba", around="", end="txt", suffix="jpg"):
    images(root / pictures, *(f"00000{n}.{suffix}" for n in (1, 2, 3)))
    celeba_lists(root, around=around, end=end)


def _celeba_mask(root):
    images(root / "CelebA-HQ-img", "0.jpg", "1.jpg")
    text(root / "CelebAMask-HQ-attribute-anno.txt", 2, "Bald Male", "0.jpg  -1 1", "1.jpg  -1 -1")


def _tree(data_set, name, layout, make, classes, *, flags="", **more):
    flags = f"--dataset={data_set}{flags}"
    return Tree(name=f"{data_set}_{name}", layout=layout, flags=flags, make=make, classes=classes, **more)


_FAIRFACE = {
    "train": counts("age", "0-2", "3-9") | counts("gender", "male", "female"),
    "val": counts("age", "0-2") | MALE,
}
_FOLDS = {f"fold_{number}": {"age": {"3-9": 1}, "gender": {"male": 1, "female": 1}} for number in range(5)}
_CELEBA = {"train": MALE, "val": FEMALE, "test": FEMALE}
_IMDB = {"train": YOUNG_MAN, "val": GIRL, "test": {}}
_APPA = dict.fromkeys(("train", "val", "test"), counts("age", "20-29"))

TREES = (
    _tree(
        "fairface",
        "official",
        "`fairface_label_{train,val}.csv`, `train/`, `val/`",
        _fairface,
        _FAIRFACE,
        proposed=True,
    ),
    _tree(
        "fairface",
        "archive",
        "`fairface_label_{train,val}.csv`, `fairface-img-margin025-trainval/`",
        lambda root: _fairface(root, archive="fairface-img-margin025-trainval"),
        _FAIRFACE,
    ),
    _tree(
        "fairface",
        "kaggle",
        "`FairFace/{train,val}_labels.csv`, `FairFace/{train,val}/`",
        lambda root: _fairface(root / "FairFace", "{}_labels.csv"),
        _FAIRFACE,
    ),
    _tree(
        "lagenda",
        "official",
        "`lagenda_annotation.csv`, `lag_benchmark/`",
        _lagenda,
        {"train": BOTH},
        skipped=1,
    ),
    _tree(
        "lagenda",
        "names_alone",
        "the same, names without `lag_benchmark/`, images as `.png`",
        lambda root: _lagenda(root / "LAGENDA", "{}.jpg", "png"),
        {"train": BOTH},
        skipped=1,
    ),
    _tree(
        "utkface",
        "official",
        "`UTKFace/1_0_0_20170109.jpg.chip.jpg`",
        lambda root: images(root / "UTKFace", *UTK, *BAD_UTK),
        {"test": BOTH},
        rejected=3,
        proposed=True,
    ),
    _tree("utkface", "images", "the images themselves", lambda root: images(root, *UTK), {"test": BOTH}),
    _tree(
        "utkface",
        "nested",
        "`utkface_aligned_cropped/UTKFace/UTKFace/`",
        lambda root: images(root / "utkface_aligned_cropped/UTKFace/UTKFace", *UTK),
        {"test": BOTH},
    ),
    _tree(
        "utkface",
        "kaggle",
        "`UTKFace/`, `crop_part1/`, `utkface_aligned_cropped/` (copies)",
        lambda root: [
            images(root / one, *UTK)
            for one in (
                "UTKFace",
                "crop_part1",
                "utkface_aligned_cropped/UTKFace",
                "utkface_aligned_cropped/crop_part1",
            )
        ],
        {"test": BOTH},
    ),
    _tree(
        "utkface",
        "crop_part1",
        "`crop_part1/`",
        lambda root: images(root / "crop_part1", *UTK),
        {"test": BOTH},
    ),
    _tree(
        "utkface",
        "splits",
        "`{train,test}/1_0_0_20170109.jpg`",
        lambda root: images(root, f"train/{UTK[0]}", f"test/{UTK[1]}"),
        {"train": YOUNG_MAN, "test": GIRL},
    ),
    _tree(
        "utkface",
        "photographs",
        "`part1/`, `part2/`, `part3/`",
        lambda root: images(root, f"part1/{UTK[0]}", f"part3/{UTK[1]}"),
        {"test": BOTH},
        flags=" --utk=wild --faces",
    ),
    _tree(
        "utkface",
        "pixels",
        "`age_gender.csv` (age, ethnicity, gender, img_name, pixels)",
        _utk_pixels,
        {"test": BOTH},
        rejected=1,
        proposed=True,
    ),
    _tree(
        "vggface2",
        "official",
        "`{train,val}/n000001/`, `identity_meta.csv`",
        _vggface2,
        {"train": MALE, "val": FEMALE},
        proposed=True,
    ),
    _tree(
        "vggface2",
        "archive",
        "`data/{train,test}/n000001/`, `meta/identity_meta.csv`",
        lambda root: _vggface2(root, ("data/train", "data/test"), "meta"),
        {"train": MALE, "test": FEMALE},
    ),
    _tree(
        "imdb_clean",
        "official",
        "`csvs/imdb_{train,valid,test}_new_1024.csv`, `data/imdb-clean-1024/`",
        _imdb,
        _IMDB,
        rejected=1,
        proposed=True,
    ),
    _tree(
        "imdb_clean",
        "flat",
        "`imdb_{train,valid,test}_new_1024.csv`, `imdb-clean-1024/`",
        lambda root: _imdb(root, "", "imdb-clean-1024"),
        _IMDB,
        rejected=1,
    ),
    _tree("adience", "aligned", "`fold_{0..4}_data.txt`, `aligned/`", _adience, _FOLDS, proposed=True),
    _tree(
        "adience",
        "faces",
        "`Adience/fold_{0..4}_data.txt`, `Adience/faces/`",
        lambda root: _adience(root / "Adience", "faces", "coarse_tilt_aligned_face"),
        _FOLDS,
    ),
    _tree(
        "adience",
        "frontal",
        "`folds/fold_frontal_{0..4}_data.txt`, `aligned/`",
        lambda root: _adience(root, folds="folds/fold_frontal_{}_data.txt"),
        _FOLDS,
    ),
    _tree(
        "agedb",
        "names",
        "`AgeDB/0_MariaCallas_35_f.jpg`",
        lambda root: images(root / "AgeDB", *AGEDB, "2_Nobody_m.jpg", "3_Old_456_m.jpg"),
        {"train": BOTH},
        rejected=2,
        proposed=True,
    ),
    _tree(
        "agedb",
        "divided",
        "the same, divided by person",
        lambda root: images(root, *AGEDB, "2_MariaCallas_6_f.jpg"),
        {"train": {"age": {"3-9": 2}, "gender": {"female": 2}}, "test": YOUNG_MAN},
        flags=" --split=0.5",
    ),
    _tree(
        "appa_real",
        "official",
        "`gt_avg_{train,valid,test}.csv`, `{train,valid,test}/000000.jpg_face.jpg`",
        _appa,
        _APPA,
        proposed=True,
    ),
    _tree(
        "appa_real",
        "faces",
        "`appa-real-release/gt_avg_*.csv`, `{train,valid,test}/000000.jpg` (faces)",
        lambda root: _appa(root / "appa-real-release", ""),
        _APPA,
    ),
    _tree(
        "appa_real",
        "apparent",
        "the same, ages that annotators estimated",
        _appa,
        dict.fromkeys(_APPA, counts("age", "3-9")),
        flags=" --appa_age=apparent",
    ),
    _tree(
        "morph", "table", "`morph_2008_nonCommercial.csv`, `Album2/`", _morph, {"train": BOTH}, proposed=True
    ),
    _tree(
        "morph",
        "index",
        "`Dataset/Index/{Train,Validation,Test}.csv`, `Dataset/Images/`",
        _morph_index,
        {"train": counts("age", "20-29") | FEMALE, "val": YOUNG_MAN, "test": counts("age", "20-29")},
        proposed=True,
    ),
    _tree(
        "morph",
        "names",
        "`009055_1M54.JPG`",
        lambda root: images(root / "MORPH", *MORPH, "a.jpg"),
        {"train": BOTH},
        rejected=1,
    ),
    _tree(
        "morph",
        "splits",
        "`{Train,Test}/009055_1M54.JPG`",
        lambda root: images(root, f"Train/{MORPH[0]}", f"Test/{MORPH[1]}"),
        {"train": GIRL, "test": YOUNG_MAN},
    ),
    _tree(
        "celeba",
        "lists",
        "`img_align_celeba/`, `list_attr_celeba.txt`, `list_eval_partition.txt`",
        _celeba,
        _CELEBA,
        proposed=True,
    ),
    _tree(
        "celeba",
        "release",
        "`Img/img_align_celeba_png/`, `Anno/`, `Eval/`",
        lambda root: _celeba(root, "Img/img_align_celeba_png", "in folders", suffix="png"),
        _CELEBA,
    ),
    _tree(
        "celeba",
        "kaggle",
        "`img_align_celeba/img_align_celeba/`, `list_attr_celeba.csv`, `list_eval_partition.csv`",
        lambda root: _celeba(root, "img_align_celeba/img_align_celeba", end="csv"),
        _CELEBA,
        proposed=True,
    ),
    _tree(
        "celeba_mask_hq",
        "list",
        "`CelebA-HQ-img/`, `CelebAMask-HQ-attribute-anno.txt`",
        _celeba_mask,
        {"train": counts("gender", "male", "female")},
        proposed=True,
    ),
    _tree(
        "celeba_hq",
        "names",
        "`celeba_hq/{train,val}/{male,female}/`",
        lambda root: [
            class_folders(root / "celeba_hq" / split, "male", "female") for split in ("train", "val")
        ],
        dict.fromkeys(("train", "val"), counts("gender", "male", "female")),
    ),
    _tree(
        "celeba_hq",
        "unsplit",
        "`CelebA_HQ/{Male,Female}/`",
        lambda root: class_folders(root / "CelebA_HQ", "Male", "Female"),
        {"train": counts("gender", "male", "female")},
    ),
)
