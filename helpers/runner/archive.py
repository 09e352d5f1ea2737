"""A run as one zip: the same folder gives the same bytes, so two people can compare digests and not files."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from helpers.errors import UsageError, WorldError, one_line
from helpers.words import size

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold; real times are in the files


def archive(folder: Path, path: Path) -> str:
    """Write every file below the folder into a zip under the run's id; a sentence with its digest.

    Raises `UsageError` where `path` exists or lies inside the folder.
    """
    if path.exists() or path.absolute().is_relative_to(folder.absolute()):
        why = "exists already" if path.exists() else "lies in the folder of the run"
        raise UsageError(
            "bad_output", why, where=one_line(str(path)), next_step="Name another file: --output FILE.zip."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as zipped:
            for name in names:
                entry = zipfile.ZipInfo(f"{folder.name}/{name}", _EPOCH)
                entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
                zipped.writestr(entry, (folder / name).read_bytes())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WorldError("not_archived", f"cannot be written ({error.strerror})", where=one_line(str(path))) from error
    what = f"{path}: {len(names)} files, {size(path.stat().st_size)}, SHA-256 {digest}"
    return f"{what}\nUnpack it anywhere; in its folder: bash VERIFY.txt"
