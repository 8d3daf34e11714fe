"""Mistakes with pictures and folders of prepared data."""

import numpy as np

from softbio_jax.data import index
from tests.data.trees import encode, make_emotions, write_image
from tests.mistakes.running import Mistake


def _prepare(world, *flags, dry=False):
    where = "--dry_run" if dry else f"--out={world.tmp}/out"
    return lambda: world.script(
        "prepare_data.py", "--dataset=folder", "--task=emotion", f"--source={world.tmp}/raw", where, *flags
    )


def _photographs(world, wrong):
    for i in range(3):
        size = (480, 640) if wrong else (480, 480)
        write_image(world.tmp / "raw" / "train" / "happy" / f"{i}.jpg", i, size=size)
    return _prepare(world, dry=True)


def _films(world, wrong):
    make_emotions(world.tmp / "raw")
    name = "party.mp4" if wrong else "notes.txt"
    (world.tmp / "raw" / "train" / "happy" / name).write_bytes(b"\0\0\0\x18ftypmp42")
    return _prepare(world)


def _not_pictures(world, wrong):
    make_emotions(world.tmp / "raw")
    if wrong:
        (world.tmp / "raw" / "train" / "happy" / "1.png").write_text("<html>404</html>")
    return _prepare(world)


def _one_split(world, wrong):
    make_emotions(world.tmp / "raw")
    source = world.tmp / "raw" / ("train" if wrong else "")
    return lambda: world.script(
        "prepare_data.py", "--dataset=folder", "--task=emotion", f"--source={source}", "--dry_run"
    )


def _other_task(world, wrong):
    make_emotions(world.tmp / "raw")
    return lambda: world.script(
        "prepare_data.py",
        "--dataset=folder",
        f"--task={'gender' if wrong else 'emotion'}",
        f"--source={world.tmp}/raw",
        "--dry_run",
    )


def _out_exists(world, wrong):
    make_emotions(world.tmp / "raw")
    if wrong:
        (world.tmp / "out").mkdir()
    return _prepare(world)


def _edited(world, wrong):
    """Labels corrected in the index of prepared data, and not in the source."""
    from softbio_jax.data import sources
    from softbio_jax.data.prepare import prepare

    make_emotions(world.tmp / "raw")
    out = world.tmp / "out"
    prepare.prepare("folder", source=str(world.tmp / "raw"), out=out, task="emotion")
    if wrong:
        found = index.read(out, "train")
        found.labels["emotion"][0] = 6
        index.write(found, out, "train")
    return lambda: world.call(lambda: sources.open_prepared(out, "train"))


def _floats(world, wrong):
    from softbio_jax.inference import images

    image = np.zeros((8, 8, 3), np.uint8)
    shown = (image / 127.5 - 1).astype(np.float32) if wrong else image
    return lambda: world.call(lambda: images.square(shown, size=8, where="pictures[0]"))


def _channels_first(world, wrong):
    from softbio_jax.inference import images

    image = np.zeros((8, 10, 3), np.uint8)
    shown = image.transpose(2, 0, 1) if wrong else image
    return lambda: world.call(lambda: images.square(shown, size=8, where="pictures[0]"))


def _truncated(world, wrong):
    data = encode(0, size=(64, 64))
    path = world.tmp / "0.jpg"
    path.write_bytes(data[: len(data) // 2] if wrong else data)
    from softbio_jax.inference import images

    return lambda: world.call(lambda: images.square(str(path), size=8))


MISTAKES = (
    Mistake(
        name="Photographs that are not cropped to the face",
        make=_photographs,
        cause="photographs instead of faces.*3 of 3.*640 x 480",
        fix="pass --faces",
    ),
    Mistake(
        name="A film or an animation among the pictures",
        make=_films,
        cause="too many rows were rejected.*party.mp4: not a picture that is read",
        fix="repair the source",
    ),
    Mistake(
        name="Files that are no pictures",
        make=_not_pictures,
        cause="too many rows were rejected.*1.png: not a picture",
        fix="repair the source",
    ),
    Mistake(
        name="The folder of one split instead of their parent",
        make=_one_split,
        cause="the folder of one split was given",
        fix="give its parent",
    ),
    Mistake(
        name="Class folders of another task",
        make=_other_task,
        cause="unknown gender class.*found 'anger'",
        fix="rename the folder",
    ),
    Mistake(
        name="Preparing into a folder that exists",
        make=_out_exists,
        cause="the output exists",
        fix="--overwrite",
    ),
    Mistake(
        name="Labels edited after the preparation",
        make=_edited,
        cause="prepared data was edited",
        fix="correct the source",
    ),
    Mistake(
        name="Normalised pictures given to predict",
        make=_floats,
        cause="not a picture.*uint8.*found float32",
        fix="before any scaling",
    ),
    Mistake(
        name="Channels first",
        make=_channels_first,
        cause=r"not a picture.*found \(3, 8, 10\)",
        fix=r"transpose\(1, 2, 0\)",
    ),
    Mistake(
        name="A truncated picture given to predict",
        make=_truncated,
        cause="cannot read the picture.*0.jpg",
        fix="download the picture again",
    ),
)
