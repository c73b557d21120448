"""Files and folders that are either whole or absent, whenever a process is killed or the power fails.

They are written under a temporary name, synced to the disk and renamed. A manifest tells later whether a folder is still what
was written: {"format", what the caller adds, "files": {name: {"size", "sha256"}}, "sha256" of the manifest before this key}.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil

from ..console import say
from ..errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = ".part"


@contextlib.contextmanager
def writing(path, advice="free some space or choose another place"):
    """Turn a full disk, a read-only folder and the like into a UserError that names `path` and gives advice."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from None


@contextlib.contextmanager
def locked(path, refusal):
    """Keep other processes out while this one, or one that it hands the open file to, is at work; gives the file.

    `path` is made for the lock alone, and stays only when this process is killed, which lets others in. A disk that knows no
    locks, as some clusters have, lets everybody in.

    Raises:
        UserError: another process is in, as `refusal` says.
    """
    import fcntl  # Windows has none, and reads and writes files well without

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):  # the one who was in has just removed it
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise UserError(refusal) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        try:
            yield lock
        finally:
            path.unlink(missing_ok=True)


def once(root, is_made, make):
    """Call `make` unless `is_made`, for what all runs of a machine share under `root`: runs that begin together take turns.

    Where `root` cannot be written, or its disk knows no locks, nobody waits.
    """
    import fcntl

    if is_made():
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((root / "lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process that prepares data in {root}")
                fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made():
            make()


def write_file(path, content):
    """Write bytes and have them on the disk on return; nothing is left of what does not fit on it."""
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def replace_file(path, content):
    """Write bytes as `path`, which is the old file or the new one at every moment."""
    unfinished = path.with_name(path.name + UNFINISHED)
    write_file(unfinished, content)
    os.replace(unfinished, path)
    sync(path.parent)


def write_folder(folder, files, **about):
    """Write (name, bytes) pairs and a manifest, which says `about`, as a new folder that is there once it is whole.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    unfinished, listed = folder.with_name(folder.name + UNFINISHED), {}
    try:
        unfinished.mkdir()
        for name, content in files:
            write_file(unfinished / name, content)
            listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_file(unfinished / MANIFEST, _manifest_bytes({"format": FORMAT, **about, "files": listed}))
        sync(unfinished)
        os.rename(unfinished, folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(folder.parent)


def fault(folder):
    """What keeps `folder` from being what `write_folder` wrote, in a few words, or None."""
    try:
        manifest = _parse_manifest((folder / MANIFEST).read_bytes())
        if manifest is None:
            return f"{MANIFEST} is damaged"
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, and this version reads {FORMAT}"
        for name, expected in manifest["files"].items():
            size = (folder / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if sha256_of(folder / name) != expected["sha256"]:
                return f"{name} is damaged: its sha256 differs"
    except FileNotFoundError as error:
        return f"{os.path.basename(error.filename)} is missing"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror or error}"
    return None


def remove_folder(folder):
    """Remove a folder of `write_folder`: at no moment is half of it there under its name."""
    unfinished = folder.with_name(folder.name + UNFINISHED)
    os.rename(folder, unfinished)
    shutil.rmtree(unfinished)


def remove_unfinished(parent):
    """Remove what killed processes left in the folder `parent`."""
    for path in parent.glob(f"*{UNFINISHED}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(path):
    """Have a file, or the names in a folder, on the disk: renaming alone may not survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path):
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # Python 3.10 has no hashlib.file_digest
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def json_bytes(value):
    """A JSON value as the bytes that are written and of which digests are taken."""
    return json.dumps(value, indent=1).encode()


def _manifest_bytes(manifest):
    digest = hashlib.sha256(json_bytes(manifest)).hexdigest()
    return json_bytes({**manifest, "sha256": digest})


def _parse_manifest(content):
    """The manifest without its own sha256, or None when a single bit of it is not as written."""
    try:
        manifest = json.loads(content)
        del manifest["sha256"]
        return manifest if _manifest_bytes(manifest) == content else None
    except (ValueError, TypeError, KeyError):
        return None
