"""Hub ids to files in huggingface_hub's cache (an extra)."""

import pathlib
import re

from softbio_jax.errors import UserError
from softbio_jax.models.config import VISION

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(source: str) -> pathlib.Path:
    """Returns the file that a path or a hub id names.

    Args:
      source: a path, or a hub id such as `facebook/PE-Core-L14-336` (its `.pt`) or
        `timm/vit_pe_core_large_patch14_336.fb` (its `model.safetensors`).

    Raises:
      UserError: neither a file nor a hub id that can be had.
    """
    path = pathlib.Path(source)
    if path.exists() or path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        return path
    if not _HUB_ID.fullmatch(source):
        raise UserError("no such checkpoint", where=source, expected="a file or a hub id",
                        found="neither", fix="correct the path")  # fmt: skip
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("huggingface_hub is needed for hub ids", where=source,
                        expected="a file, or huggingface_hub installed",
                        fix="pip install 'softbio-jax[hub]'") from error  # fmt: skip
    name = source.split("/")[1]
    filename = f"{name}.pt" if name in VISION else "model.safetensors"
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(source, filename))
    # Its errors have no common base; each means that the file is not to be had.
    except Exception as error:
        raise UserError("cannot fetch from the hub", where=f"{source}:{filename}",
                        expected="a public repository, or a cached copy",
                        found=f"{type(error).__name__}",
                        fix="check the id and the network, or give a file") from error  # fmt: skip
