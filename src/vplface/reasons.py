"""Messages for errors caused by the environment: disk, memory, or input."""

from __future__ import annotations

import errno
import re

from vplface.errors import VplfaceError

_ADVICE = {
    errno.EACCES: "check the permissions of the file and of the folders above it",
    errno.EPERM: "check the permissions of the file and of the folders above it",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ESTALE: "mount the share again",
    errno.EIO: "check the disk or the connection",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs or use smaller batches",
}
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|[Oo]ut of memory|Insufficient memory")
_NO_THREAD = "can't start new thread"


def explained(error: BaseException) -> str | None:
    """Message for an error caused by the environment; None if the error is a bug.

    Args:
        error: any exception.
    """
    text = str(error)
    match error:
        case VplfaceError():
            return text
        case MemoryError():
            return f"out of memory: {text or 'an allocation failed'}; close other programs or use smaller batches"
        case OSError():
            return _of_system(error)
        case UnicodeError():
            return f"text that is not Unicode, or a name that cannot be written in this encoding: {text}"
        case RecursionError():
            return "the input is nested too deeply"
        case RuntimeError() if _NO_THREAD in text:
            return "no thread can be started; raise the limit of processes (ulimit -u) or use fewer workers"
        case RuntimeError() if text.startswith("Symlink loop from"):  # Path.resolve until Python 3.12
            return f"{text.removeprefix('Symlink loop from ')}: its symbolic links lead in a circle"
        case ValueError() if "embedded null" in text:
            return "a file name contains a null character"
        case _ if _OUT_OF_MEMORY.search(text):
            return f"out of memory: {text.splitlines()[0]}; close other programs or use smaller batches"
        case _:
            return None


def _of_system(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    names = [repr(str(name)) for name in (error.filename, error.filename2) if name is not None]
    advice = _ADVICE.get(error.errno or 0)
    return ": ".join([*names, reason]) + (f"; {advice}" if advice else "")
