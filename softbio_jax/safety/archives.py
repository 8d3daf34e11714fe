"""Unpacks zip archives of other people: complete or not at all, and nothing outside of the folder."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import zipfile

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.escaping import one_line
from softbio_jax.safety import damage
from softbio_jax.safety.untrusted import ALWAYS, RATIO

_MEMBERS = 1_000_000
_NAME = 255  # bytes of one part of a path, what file systems take
_ENCRYPTED = 1  # bit of a member's flags


def unzip(archive: str | os.PathLike[str], out: str | os.PathLike[str]) -> pathlib.Path:
    """Unpacks a zip archive into a folder, which is replaced if it exists, and returns the folder.

    Hidden files and the folder `__MACOSX` are left out.

    Args:
      archive: the file.
      out: the folder to make.

    Raises:
      UserError: not a zip, damaged or encrypted; a member outside of the folder, that is no file, or
        with a name of another member; more than 100 times the archive's size and 256 MiB, a million
        members, or more than the disk has room for. `out` is as before.
    """
    path, out = pathlib.Path(files.home(archive)), pathlib.Path(files.home(out))
    if not path.is_file() or not zipfile.is_zipfile(path):
        found = "no zip archive" if path.is_file() else "a folder" if path.is_dir() else "no such file"
        raise _refused(path, found, fix="name a .zip file of images in folders")
    again = "make the archive again from the images"
    most = max(ALWAYS, RATIO * path.stat().st_size)
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as opened:
            members = _members(path, opened)
            scratch.mkdir(parents=True)
            size, free = sum(member.file_size for member in members.values()), shutil.disk_usage(scratch).free
            if size > most:
                raise _refused(path, f"{size:,} bytes in {path.stat().st_size:,}", fix=again)
            if size > free:
                raise _refused(path, f"{size:,} bytes, where {free:,} are free", fix="free some disk space")
            for name, member in members.items():
                target = scratch / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)
        files.replace_folder(scratch, out)
    except (UserError, OSError):  # an OSError is the disk's, not the archive's
        raise
    except Exception as error:  # damage, which zipfile and its decompressors report in many ways
        raise _refused(path, f"damaged: {one_line(damage.reason(error))[:160]}", fix=again) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def _members(path: pathlib.Path, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the files of an archive by their paths below the folder."""
    members: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    if len(opened.infolist()) > _MEMBERS:
        raise _refused(path, f"{len(opened.infolist()):,} members", fix=f"at most {_MEMBERS:,}")
    for member in opened.infolist():
        name = member.filename.replace("\\", "/")  # of old archives from Windows
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if problem := _problem(member, name, parts):
            raise _refused(
                path, f"{one_line(name)[:80]!r}: {problem}", fix="make the archive from ordinary files"
            )
        if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        inner = "/".join(parts)
        folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if name.endswith("/"):
            folders.add(inner)
        elif inner in members:
            raise _refused(path, f"{one_line(inner)[:80]!r} twice", fix="rename one of the files")
        else:
            members[inner] = member
    if both := sorted(folders & set(members)):
        found = f"{one_line(both[0])[:80]!r}: a file and a folder"
        raise _refused(path, found, fix="rename one of them")
    if not members:
        raise _refused(path, "no files", fix="name an archive of images in folders")
    return members


def _problem(member: zipfile.ZipInfo, name: str, parts: list[str]) -> str:
    """Returns why a member is not unpacked, "" if it is."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or name[1:2] == ":" or ".." in parts:
        return "leads out of the folder"
    if one_line(name) != name:
        return "a control character in the name"
    if any(len(os.fsencode(part)) > _NAME for part in parts):
        return f"a name of more than {_NAME} bytes"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "neither a file nor a folder"
    return "encrypted" if member.flag_bits & _ENCRYPTED else ""


def _refused(path: pathlib.Path, found: str, *, fix: str) -> UserError:
    return UserError("cannot unpack the archive", where=str(path), expected="a zip", found=found, fix=fix)
