"""`top`: the processes of a container, seen from the host."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.engine.events import record_event
from layerfs.engine.records import TopTable
from layerfs.errors import InUse, InvalidInput

if TYPE_CHECKING:
    from layerfs.engine.container import Container

_TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_DIGITS = re.compile(r"[0-9]+\Z")


def list_processes(box: Container, arguments: Sequence[str] = ()) -> TopTable:
    """In docker's columns; with `arguments` what the host's ps says with them.

    Raises:
        InUse: it does not run. InvalidInput: ps cannot be used, or does not show PIDs.
    """
    init = box.state.pid
    if not init:
        raise InUse(f"container {box.id} is not running")
    inside = set(_pids_of(init))
    record_event(box, "top")
    if arguments:
        return _by_ps(arguments, inside)
    return TopTable(_TITLES, tuple(row for pid in sorted(inside) if (row := _row(pid)) is not None))


def _pids_of(init: int) -> Iterator[int]:
    """Those in the PID namespace of `init`, and in namespaces made inside it: they descend from it, or have joined."""
    namespace = _namespace(init)
    parents: dict[int, int] = {}
    members = set()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(place.name)] = int(_stat(int(place.name))[1])
                if namespace and _namespace(int(place.name)) == namespace:
                    members.add(int(place.name))
    for pid in parents:
        line, at = [pid], pid
        while at in parents and at not in members and len(line) < 1000:
            at = parents[at]
            line.append(at)
        if at in members:
            members.update(line)
    return iter(members)


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, ppid, …"""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def _row(pid: int) -> tuple[str, ...] | None:
    try:
        fields = _stat(pid)
        owner = Path(f"/proc/{pid}").stat().st_uid
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) // ticks
    began = time.time() - _uptime() + int(fields[19]) / ticks
    share = int(100 * used / max(1.0, time.time() - began))
    command = words.decode("utf-8", "backslashreplace") or f"[{name}]"
    return (
        _user(owner),
        str(pid),
        fields[1],
        str(share),
        _moment(began),
        _terminal(int(fields[4])),
        f"{used // 3600:02d}:{used // 60 % 60:02d}:{used % 60:02d}",
        "".join(c if c.isprintable() else "?" for c in command),
    )


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _moment(began: float) -> str:
    here, now = time.localtime(began), time.localtime()
    if here[:3] == now[:3]:
        return time.strftime("%H:%M", here)
    return time.strftime("%b%d" if here.tm_year == now.tm_year else "%Y", here)


def _terminal(number: int) -> str:
    if not number:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor}" if 136 <= major <= 143 else f"tty{minor}" if major == 4 else f"{major}:{minor}"


def _by_ps(arguments: Sequence[str], inside: set[int]) -> TopTable:
    def ps(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ps", *words], capture_output=True, text=True, errors="replace", check=False)

    try:
        done = ps(*arguments, "-q", ",".join(map(str, sorted(inside))))
        if done.returncode:  # some options do not go with -q
            done = ps(*arguments)
    except FileNotFoundError:
        raise InvalidInput("options of top need ps(1) on this machine") from None
    if done.returncode:
        raise InvalidInput(f"ps: {' '.join((done.stderr or done.stdout).split())[:200]}")
    lines = done.stdout.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidInput("Couldn't find PID field in ps output")
    at = titles.index("PID")
    rows = [tuple(line.split(None, len(titles) - 1)) for line in lines[1:]]
    chosen = [row for row in rows if len(row) > at and _DIGITS.match(row[at]) and int(row[at]) in inside]
    return TopTable(tuple(titles), tuple(chosen))
