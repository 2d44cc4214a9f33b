"""The spill file: where objects go that do not fit in memory.

It has no name: whatever process dies, and however, nothing is left in the directory.
"""

from __future__ import annotations

import errno
import os
import stat

from pyray._core import shm
from pyray.exceptions import SessionError
from pyray.frozen import Frozen

# Unless the user says. The file takes blocks as objects go there; what this bounds is address
# space, and what a program that never drops anything can do to the disk.
MOST = 128 << 30
# Left to other programs on that file system: the smaller of the two.
RESERVE = 256 << 20
RESERVE_SHARE = 20
# Less than this is not worth having, where it is not asked for.
LEAST = 64 << 20


class SpillFile(Frozen):
    """What `open_file` has opened.

    Attributes
    ----------
    fd : int
        Its descriptor, or -1: nothing spills.
    size : int
        Bytes that it may take.
    directory : str
    reason : str
        Why there is none, or why it is smaller than what was asked for; else empty.
    """

    fd: int
    size: int
    directory: str
    reason: str


def open_file(directory: str | None, limit: int | None) -> SpillFile:
    """Make the session's spill file.

    Parameters
    ----------
    directory : str, optional
        Where; default: the directory for temporary files.
    limit : int, optional
        Bytes that it may take; default: what the file system has free, but for a reserve.

    Raises
    ------
    SessionError
        The directory that was asked for cannot be used.
    """
    if limit == 0:
        return SpillFile(-1, 0, directory or "", "max_spill_bytes is 0")
    try:
        where = os.path.abspath(directory) if directory is not None else _temporary()
        fd = _open(where, asked=directory is not None)
    except OSError as error:
        if directory is None and limit is None:
            return SpillFile(-1, 0, "", f"no spill file could be made: {error}")
        what = f"spill_directory={directory!r}" if directory is not None else "the spill file"
        raise SessionError(
            f"{what} cannot be used: {error}; pass a directory on a disk that this user may write "
            "to, or max_spill_bytes=0, with which nothing spills"
        ) from None
    try:
        size, reason = _size(fd, limit)
        if size <= 0:
            os.close(fd)
            return SpillFile(-1, 0, where, reason)
        os.ftruncate(fd, size)
    except OSError as error:
        os.close(fd)
        if limit is None:
            return SpillFile(-1, 0, where, f"the spill file could not be sized: {error}")
        raise SessionError(
            f"max_spill_bytes={limit}: a file in {where!r} cannot have that size: {error}; pass a "
            "smaller one"
        ) from None
    return SpillFile(fd, size, where, reason)


def _temporary() -> str:
    # As `tempfile` does it, whose import takes longer than all of this.
    candidates = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for path in [c for c in candidates if c] + ["/tmp", "/var/tmp"]:
        if os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return os.path.abspath(path)
    raise OSError(errno.ENOENT, "there is no directory for temporary files (TMPDIR is not one)")


def _open(directory: str, asked: bool) -> int:
    if asked:
        # Somebody else could have it point to what we may write to and they may not.
        link = os.lstat(directory)
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            raise OSError(
                errno.ELOOP, f"it is a symbolic link of user {link.st_uid}'s, who may change it"
            )
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = os.O_RDWR | os.O_CLOEXEC
        try:
            # O_EXCL: nobody can give it a name later, through /proc.
            fd = os.open(".", how | os.O_TMPFILE | os.O_EXCL, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
            fd = _named_for_a_moment(folder, how)
    finally:
        os.close(folder)
    os.fchmod(fd, 0o600)
    return fd


def _named_for_a_moment(folder: int, how: int) -> int:
    """A file on a file system that has none without a name."""
    who = os.fstat(folder)
    shared = who.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not who.st_mode & stat.S_ISVTX
    if who.st_uid not in (0, os.geteuid()) or shared:
        raise OSError(
            errno.EPERM,
            f"it is user {who.st_uid}'s or others may delete files in it (mode "
            f"{stat.S_IMODE(who.st_mode):o}), and its file system has no files without names",
        )
    name = f"pyray-{os.urandom(8).hex()}"
    fd = os.open(name, how | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    os.unlink(name, dir_fd=folder)
    return fd


def _size(fd: int, limit: int | None) -> tuple[int, str]:
    import resource

    where = os.fstatvfs(fd)
    reserve = min(RESERVE, where.f_blocks * where.f_frsize // RESERVE_SHARE)
    free = where.f_bavail * where.f_frsize - reserve
    size = min(free, MOST) if limit is None else limit
    reason = f"the disk has {max(free, 0)} bytes free, besides a reserve of {reserve}"
    files = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if files != resource.RLIM_INFINITY and size > files:
        size, reason = files, f"files may have {files} bytes at most here (RLIMIT_FSIZE)"
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    # It is mapped twice, and the rest of the program needs room as well.
    if space != resource.RLIM_INFINITY and size > space // 16:
        size, reason = space // 16, f"address space is limited to {space} bytes (RLIMIT_AS)"
    while size >= LEAST and not shm.can_map(4 * size):
        size, reason = size // 2, "there is no address space for more"
    if size < LEAST and (limit is None or size < limit):
        return 0, reason
    return size, reason if limit is not None and size < limit else ""
