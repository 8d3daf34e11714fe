"""Mistakes with images and folders of prepared data."""

import numpy as np

from softbio_jax.data import index
from tests.data.trees import encode, make_emotions, write_image
from tests.mistakes.running import Mistake


def _prepare(sandbox, *flags, dry=False):
    where = "--dry_run" if dry else f"--out={sandbox.tmp}/out"
    return lambda: sandbox.script(
        "prepare_data.py", "--dataset=folder", "--task=emotion", f"--source={sandbox.tmp}/raw", where, *flags
    )


def _photographs(sandbox, wrong):
    for i in range(3):
        size = (480, 640) if wrong else (480, 480)
        write_image(sandbox.tmp / "raw" / "train" / "happy" / f"{i}.jpg", i, size=size)
    return _prepare(sandbox, dry=True)


def _videos(sandbox, wrong):
    make_emotions(sandbox.tmp / "raw")
    name = "party.mp4" if wrong else "notes.txt"
    (sandbox.tmp / "raw" / "train" / "happy" / name).write_bytes(b"\0\0\0\x18ftypmp42")
    return _prepare(sandbox)


def _not_images(sandbox, wrong):
    make_emotions(sandbox.tmp / "raw")
    if wrong:
        (sandbox.tmp / "raw" / "train" / "happy" / "1.png").write_text("<html>404</html>")
    return _prepare(sandbox)


def _one_split(sandbox, wrong):
    make_emotions(sandbox.tmp / "raw")
    source = sandbox.tmp / "raw" / ("train" if wrong else "")
    return lambda: sandbox.script(
        "prepare_data.py", "--dataset=folder", "--task=emotion", f"--source={source}", "--dry_run"
    )


def _other_task(sandbox, wrong):
    make_emotions(sandbox.tmp / "raw")
    return lambda: sandbox.script(
        "prepare_data.py",
        "--dataset=folder",
        f"--task={'gender' if wrong else 'emotion'}",
        f"--source={sandbox.tmp}/raw",
        "--dry_run",
    )


def _out_exists(sandbox, wrong):
    make_emotions(sandbox.tmp / "raw")
    if wrong:
        (sandbox.tmp / "out").mkdir()
    return _prepare(sandbox)


def _edited(sandbox, wrong):
    """Labels corrected in the index of prepared data instead of the source."""
    from softbio_jax.data import sources
    from softbio_jax.data.prepare import prepare

    make_emotions(sandbox.tmp / "raw")
    out = sandbox.tmp / "out"
    prepare.prepare("folder", source=str(sandbox.tmp / "raw"), out=out, task="emotion")
    if wrong:
        found = index.read(out, "train")
        found.labels["emotion"][0] = 6
        index.write(found, out, "train")
    return lambda: sandbox.call(lambda: sources.open_prepared(out, "train"))


def _floats(sandbox, wrong):
    from softbio_jax.inference import images

    image = np.zeros((8, 8, 3), np.uint8)
    shown = (image / 127.5 - 1).astype(np.float32) if wrong else image
    return lambda: sandbox.call(lambda: images.square(shown, size=8, where="images[0]"))


def _channels_first(sandbox, wrong):
    from softbio_jax.inference import images

    image = np.zeros((8, 10, 3), np.uint8)
    shown = image.transpose(2, 0, 1) if wrong else image
    return lambda: sandbox.call(lambda: images.square(shown, size=8, where="images[0]"))


def _truncated(sandbox, wrong):
    data = encode(0, size=(64, 64))
    path = sandbox.tmp / "0.jpg"
    path.write_bytes(data[: len(data) // 2] if wrong else data)
    from softbio_jax.inference import images

    return lambda: sandbox.call(lambda: images.square(str(path), size=8))


MISTAKES = (
    Mistake(
        name="Photographs that are not cropped to the face",
        make=_photographs,
        cause="photographs.*split 'train'.*3 of 3.*640 x 480",
        fix="pass --faces",
    ),
    Mistake(
        name="A video among the images",
        make=_videos,
        cause="rejected.*1 of 7.*party.mp4.*found .mp4",
        fix="--max_rejected",
    ),
    Mistake(
        name="Files that are not images",
        make=_not_images,
        cause="rejected.*1 of 6.*1.png",
        fix="--max_rejected",
    ),
    Mistake(
        name="The folder of one split instead of its parent",
        make=_one_split,
        cause="raw/train: expected {split}/{class}",
        fix="--split=0.8",
    ),
    Mistake(
        name="Class folders of another task",
        make=_other_task,
        cause="gender.*found 'anger'",
        fix="looks like .* --dataset=folder --task=emotion",
    ),
    Mistake(
        name="Preparing into a folder that exists", make=_out_exists, cause="exists: .*out", fix="--overwrite"
    ),
    Mistake(
        name="Labels edited after the preparation",
        make=_edited,
        cause="edited.*index_train.npz.*fingerprint",
        fix="scripts/prepare_data.py",
    ),
    Mistake(
        name="Normalised images given to predict",
        make=_floats,
        cause=r"images\[0\].*uint8.*found float32",
        fix="scaling",
    ),
    Mistake(
        name="Channels first",
        make=_channels_first,
        cause=r"images\[0\].*found \(3, 8, 10\)",
        fix=r"transpose\(1, 2, 0\)",
    ),
    Mistake(
        name="A truncated image given to predict", make=_truncated, cause="0.jpg.*truncated", fix="download"
    ),
)
