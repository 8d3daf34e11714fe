"""Small versions of what pages assume: the reader's folders, images, runs and checkpoints."""

import io
import json
import pathlib
import shutil

import numpy as np
from PIL import Image

from softbio_jax.data.drawing import synthetic
from softbio_jax.data.prepare import prepare
from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import save_arrays
from tests.data.trees import make_fairface, write_image, write_table
from tests.docs.blocks import ROOT

# Rendered faces that the detector finds.
FOUND = (3, 4, 5)


def own_faces(root: pathlib.Path) -> None:
    """One folder per class, faces/, and a table with its images, table/."""
    rows = []
    for split, count in (("train", 24), ("test", 8)):
        for i in range(count):
            seed = 100 * (split == "test") + i
            write_image(root / "faces" / split / ("happy", "sad")[i % 2] / f"{i}.png", seed)
            write_image(root / "table" / f"{split}{i}.png", 500 + seed, kind="PNG", size=(48, 48))
            rows.append((f"{split}{i}.png", 20 + 3 * i, "MW"[i % 2], split, "IT"))
    write_table(root / "table" / "labels.csv", ("file", "years", "sex", "part", "country"), rows)


def known_sets(root: pathlib.Path) -> None:
    """FairFace, one folder per emotion, FER, and AgeDB."""
    make_fairface(root / "FairFace", train=60, val=20)
    for number in range(80):
        split, name = ("train", "train", "test")[number % 3], ("happy", "anger")[number % 2]
        write_image(root / "FER" / split / name / f"{number}.png", 5000 + number, kind="PNG")
    for number in range(10):
        write_image(root / "AgeDB" / f"{number}_Person{number // 2}_{20 + number}_f.jpg", 9000 + number)


def table(root: pathlib.Path) -> None:
    """A table with custom column names."""
    rows = []
    for i in range(8):
        write_image(root / "mine" / f"{i}.jpg", i)
        part = ("train", "test")[i % 4 == 3]
        rows.append((f"{i}.jpg", ("20-29", "60-69")[i % 2], "MW"[i % 2], part, "IT"))
    write_table(root / "mine" / "labels.csv", ("file", "how old", "sex", "part", "country"), rows)


def photographs(root: pathlib.Path) -> None:
    """Photos/{split}/{class}/, faces with a background."""
    for split in ("train", "test"):
        for row, gender in zip(FOUND, ("male", "female", "male"), strict=True):
            page = np.full((340, 360, 3), 128, np.uint8)
            page[50:290, 60:300] = face(row)
            path = root / "Photos" / split / gender / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(page).save(path)


def face(row: int) -> np.ndarray:
    """A rendered face (240, 240, 3) that the detector finds."""
    return synthetic.draw("synthetic_fairface", "test", row, size=240, seed=5).image


def faces_table(root: pathlib.Path) -> None:
    """Writes a Parquet table of encoded images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = []
    for row in range(3):
        images.append(io.BytesIO())
        Image.fromarray(face(row)).save(images[-1], "png")
    pq.write_table(pa.table({"image": [image.getvalue() for image in images]}), root / "faces.parquet")


def moving_page(root: pathlib.Path) -> None:
    """A video of three seconds, and a file that is not an image."""
    import cv2

    (root / "faces").mkdir()
    (root / "faces" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    writer = cv2.VideoWriter(str(root / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (480, 340))
    for i in range(30):
        frame = np.full((340, 480, 3), 128, np.uint8)
        frame[50:290, 20 + 6 * i : 260 + 6 * i] = face(FOUND[0])[:, :, ::-1]
        writer.write(frame)
    writer.release()


def official_encoder(root: pathlib.Path) -> None:
    """A checkpoint of both encoders with name-seeded weights."""
    state = named_state(formats.official_shapes("tiny-test", text=True))
    save_arrays(root / "official.safetensors", state, metadata={})


def other_predictions(root: pathlib.Path) -> None:
    """Predictions of another model for a test set of the demo: here, those of the run."""
    run = root / "runs" / "demo" / "run"
    shutil.copy(run / "eval" / "predictions" / "synthetic_fairface.csv", root / "mivolo.csv")


def other_runs(root: pathlib.Path) -> None:
    """Runs to be compared: copies of the demo's, of three methods and two seeds."""
    for name, seed in (
        ("lora-s0", 0),
        ("lora-s1", 1),
        ("lp-s0", 0),
        ("lp-s1", 1),
        ("ft-s0", 0),
        ("other", 0),
    ):
        run = root / "runs" / name
        shutil.copytree(root / "runs" / "demo" / "run", run)
        config = json.loads((run / "config.json").read_text())
        config |= {"seed": seed, "method": {"name": name.partition("-")[0]}}
        if name != "other":
            (run / "config.json").write_text(json.dumps(config))


def teachers(root: pathlib.Path) -> None:
    """Runs of large encoders, of the demo's here."""
    for name in ("large", "lora"):
        shutil.copytree(root / "runs" / "demo" / "run", root / "runs" / name)


def crops(root: pathlib.Path) -> None:
    """Images without labels, CROPS/."""
    for number in range(4):
        write_image(root / "CROPS" / f"{number}.jpg", number)


def latency_page(root: pathlib.Path) -> None:
    """The page with its measurements."""
    (root / "docs").mkdir()
    for name in ("latency.md", "latency.json"):
        shutil.copy(ROOT / "docs" / name, root / "docs")


def records(root: pathlib.Path) -> None:
    """The pages of the studies with their records."""
    for study in ("foundation_study", "partial_labels", "distill_study"):
        shutil.copytree(ROOT / "docs" / study, root / "docs" / study)
    for page in ("foundation_study", "partial_labels", "distillation"):
        shutil.copy(ROOT / "docs" / f"{page}.md", root / "docs")


def prepared_fairface(root: pathlib.Path) -> None:
    """FairFace as prepare_data.py leaves it, data/fairface."""
    prepare.prepare("fairface", source=str(root / "FairFace"), out=root / "data" / "fairface")


def identities(root: pathlib.Path) -> None:
    """VGGFace2, and its table of ages."""
    for number, name in enumerate(("n000001/0001_01.jpg", "n000009/0001_01.jpg")):
        for split in ("train", "test"):
            write_image(root / "VGGFace2" / split / name, number)
    rows = (("n000001", '"Somebody"', 2, 0, "m"), ("n000009", '"Another"', 2, 1, "f"))
    header = ("Class_ID", "Name", "Sample_Num", "Flag", "Gender")
    write_table(root / "VGGFace2" / "identity_meta.csv", header, rows)
    (root / "ages.csv").write_text("n000001/0001_01.jpg,34.5\n")


def architecture_page(tree: pathlib.Path) -> None:
    """The page that counts its own walks."""
    (tree / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "architecture.md", tree / "docs")
