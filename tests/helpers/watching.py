"""What a program reaches for outside this machine, and which files it writes.

Python's audit events show what Python code asks for. Where strace is installed, it shows the same of native code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vplface.telemetry import SWITCHES

_HOOK = """
import os, sys
told = open("events", "a", buffering=1)
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        print("look-up", arguments[0], file=told)
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        print("connection", arguments[1][0], file=told)
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        print("file", os.path.abspath(arguments[0]), file=told)
sys.addaudithook(watch)
"""
_CALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,creat"
_ADDRESS = re.compile(r'AF_INET6?,.*sin6?_port=htons\((\d+)\).*"([0-9a-f.:]+)"')
_RESOLVER = re.compile(r'sun_path="(/run/systemd/resolve/[^"]*)"')
_WRITTEN = re.compile(r'(?:open|openat|creat)\((?:AT_FDCWD, )?"(/[^"]*)", [^)\n]*O_(?:WRONLY|RDWR|CREAT)[^)\n]*\) = \d')
_HERE = re.compile(r"localhost|127\.[\d.]+|::1|0\.0\.0\.0|::|None|")
_DNS = "53"


@dataclass(frozen=True)
class Seen:
    """What a program did.

    Attributes:
        reached: names that were looked up and addresses that were asked for, this machine's own left out.
        written: files that were written and are not below the folder of the program.
        left: files in the home folder at the end, relative to it.
        output: standard output and standard error.
        status: exit status.
    """

    reached: set[str]
    written: set[str]
    left: set[str]
    output: str
    status: int


def watch(script: str, folder: Path) -> Seen:
    """Run a Python script in ``folder/work``, with the home folder and temporary files in ``folder`` too.

    The environment asks for telemetry.
    """
    home, work, temporary = (folder / name for name in ("home", "work", "tmp"))
    for made in (home, work, temporary):
        made.mkdir()
    places = {"HOME": home, "XDG_CACHE_HOME": home / ".cache", "XDG_CONFIG_HOME": home / ".config", "TMPDIR": temporary}
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment |= {name: str(place) for name, place in places.items()}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "ORT_DISABLE_TELEMETRY": "0", "GRADIO_ANALYTICS_ENABLED": "True"}
    calls = folder / "calls"
    strace = ["strace", "-f", "--seccomp-bpf", "-s", "4096", "-e", f"trace={_CALLS}", "-o", str(calls)]
    command = [*(strace if shutil.which("strace") else []), sys.executable, "-c", _HOOK + script]
    done = subprocess.run(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    events = [line.partition(" ")[::2] for line in (work / "events").read_text().splitlines()]
    reached = {f"{kind} {what}" for kind, what in events if kind != "file" and not _HERE.fullmatch(what)}
    written = {what for kind, what in events if kind == "file"}
    if calls.exists():
        text = calls.read_text(errors="replace")
        reached |= {
            f"connection {address}, port {port}"
            for port, address in _ADDRESS.findall(text)
            if port == _DNS or not _HERE.fullmatch(address)
        }
        reached |= {f"connection {path}" for path in _RESOLVER.findall(text)}
        written |= set(_WRITTEN.findall(text))
    return Seen(
        reached,
        {
            path
            for path in written
            if not Path(path).is_relative_to(folder) and not path.startswith(("/dev/", "/proc/"))
        },
        {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()},
        done.stdout,
        done.returncode,
    )
