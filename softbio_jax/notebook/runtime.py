"""Where the notebooks run: Colab, Kaggle or a machine of one's own, and what that means for files."""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.console import start_as
from softbio_jax.data.prepare import locate
from softbio_jax.errors import UserError
from softbio_jax.safety.archives import unzip

_FOLDER = "softbio_jax"
UPLOAD = "upload"  # in place of an archive's path: choose a file


def name() -> str:
    """Returns the platform of this process: colab, kaggle or local."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    return "colab" if "google.colab" in sys.modules else "local"


def folders(work: str, data: str) -> tuple[str, str]:
    """Returns the folders of runs and of prepared data.

    In Colab runs are on Drive, in `MyDrive/softbio_jax`; it is mounted if it is not. On Kaggle they are in
    `/kaggle/working/softbio_jax`, and data, which need not be kept, in the temporary folder. Elsewhere, and
    where they are absolute, both are as given. The environment variables SOFTBIO_DRIVE and
    KAGGLE_WORKING_DIR name other places than `/content/drive` and `/kaggle/working`. From here on messages
    name the commands that the package installs, not scripts of a checkout.
    """
    start_as("softbio-jax")
    here = name()
    if here == "colab":
        place = pathlib.Path(os.environ.get("SOFTBIO_DRIVE", "/content/drive"))
        if not (place / "MyDrive").is_dir():
            from google.colab import drive

            drive.mount(str(place))
        return os.path.join(place, "MyDrive", _FOLDER, work), data
    if here == "kaggle":
        kept = os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working")
        return os.path.join(kept, _FOLDER, work), os.path.join(tempfile.gettempdir(), _FOLDER, data)
    return work, data


def source(
    given: Mapping[str, Any], *, archive: str, task: str, out: str | os.PathLike[str]
) -> dict[str, Any]:
    """Returns the arguments of `prepare`, with the source that was unpacked from a zip archive.

    Args:
      given: the arguments without an archive; drawn faces are replaced by `dataset="folder"`.
      archive: "": `given` is returned. "upload": Colab asks for the file, once per runtime. Otherwise
        the path of a zip.
      task: of a folder per class.
      out: the folder to unpack to.

    Raises:
      UserError: nothing was chosen, no Colab, or what `unzip` refuses.
    """
    if not archive:
        return dict(given)
    folder = pathlib.Path(files.home(out))
    if archive != UPLOAD:
        unzip(archive, folder)
    elif not folder.is_dir():
        _upload(folder)
    # People pack the folder that holds the splits, or the one around it.
    while len(inner := locate.subfolders(folder)) == 1 and inner[0].name.lower() not in locate.SPLIT_OF:
        folder = inner[0]
    drawn = given.get("dataset") == "synthetic"
    return {**({"dataset": "folder", "task": task} if drawn else given), "source": str(folder)}


def _upload(folder: pathlib.Path) -> None:
    if name() != "colab":
        raise UserError(
            "no upload here",
            where=f"the archive {UPLOAD!r}",
            expected="Colab",
            found=name(),
            fix="name the path of the .zip",
        )
    from google.colab import files as colab_files

    with tempfile.TemporaryDirectory() as scratch:
        chosen = list(colab_files.upload().values())
        if not chosen:
            raise UserError("no file was chosen", where="the upload", fix="run the cell again")
        path = pathlib.Path(scratch, "upload.zip")
        path.write_bytes(chosen[0])
        unzip(path, folder)
