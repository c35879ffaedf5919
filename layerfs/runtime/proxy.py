"""Publishing ports without nftables: a process that listens on the host and passes bytes on to the container. What
started it takes it away with the container's network (`stop`); its number is in a file, with its start time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from layerfs.errors import RunError
from layerfs.runtime.firewall import Published

Address = tuple[str, int]
_CHUNK = 1 << 16
_UDP_SECONDS = 90.0
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from layerfs.runtime.proxy import main; main(sys.argv[2:])"
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def start(place: Path, address: str, ports: Sequence[Published]) -> None:
    """Listens before it returns; `place` is the file that `stop` needs. Raises RunError."""
    sockets = []
    try:
        for port in ports:  # what is open is closed when a later one cannot be had
            sockets.append(_listen(port))  # noqa: PERF401
        words = [f"{sock.fileno()}:{port.protocol}:{port.port}" for sock, port in zip(sockets, ports, strict=True)]
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[2]), address, *words],
            pass_fds=[sock.fileno() for sock in sockets],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    except OSError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"publishing ports: {(error.strerror or str(error)).lower()}") from None
    finally:
        for sock in sockets:
            sock.close()
    place.write_text(f"{process.pid} {_started(process.pid)}")
    process.returncode = 0  # it is not waited for: it outlives us


def _listen(port: Published) -> socket.socket:
    sock = socket.socket(socket.AF_INET, _TYPES[port.protocol] | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port.protocol == "tcp"))
        sock.bind((port.host_ip, port.host_port))
        if port.protocol == "tcp":
            sock.listen(512)
    except OSError:
        sock.close()
        where = f"{port.host_ip or '0.0.0.0'}:{port.host_port}"
        raise RunError(f"Bind for {where} failed: port is already allocated") from None
    return sock


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def stop(place: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        pid, started = place.read_text().split()
        if started and _started(int(pid)) == started:
            os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), 0)
    place.unlink(missing_ok=True)


# the process


def main(words: Sequence[str]) -> None:
    asyncio.run(_serve(words[0], words[1:]))


async def _serve(address: str, words: Sequence[str]) -> None:
    for word in words:
        number, protocol, port = word.split(":")
        sock = socket.socket(fileno=int(number))
        sock.setblocking(False)
        if protocol == "tcp":
            await asyncio.start_server(_Stream(address, int(port)), sock=sock)
        else:
            datagrams = functools.partial(_Datagrams, address, int(port))
            await asyncio.get_running_loop().create_datagram_endpoint(datagrams, sock=sock)
    await asyncio.Event().wait()


class _Stream:
    """One TCP port: every connection is one to the container."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
        finally:
            for each in (writer, inner_writer):
                each.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """To the end of one direction; a half-closed connection stays one."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class _Datagrams(asyncio.DatagramProtocol):
    """One UDP port: each sender has a socket of its own towards the container, for as long as something comes."""

    def __init__(self, address: str, port: int) -> None:
        self._target, self._senders = (address, port), dict[Address, _Answers]()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        answers = self._senders.get(addr)
        if answers is None:
            answers = self._senders[addr] = _Answers(self, addr)
            loop = asyncio.get_running_loop()
            answers.task = loop.create_task(loop.create_datagram_endpoint(lambda: answers, remote_addr=self._target))
        answers.send(data)

    def answer(self, data: bytes, addr: Address) -> None:
        if self._transport is not None:
            self._transport.sendto(data, addr)

    def forget(self, addr: Address) -> None:
        self._senders.pop(addr, None)


class _Answers(asyncio.DatagramProtocol):
    """What comes back for one sender."""

    def __init__(self, owner: _Datagrams, addr: Address) -> None:
        self._owner, self._addr = owner, addr
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        for data in self._waiting:
            self._transport.sendto(data)
        self._waiting.clear()

    def send(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_UDP_SECONDS, self._end)
        if self._transport is None:
            self._waiting.append(data)
        else:
            self._transport.sendto(data)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._owner.answer(data, self._addr)

    def error_received(self, exc: Exception) -> None:
        pass  # the container does not listen: the sender may try again

    def _end(self) -> None:
        self._owner.forget(self._addr)
        if self._transport is not None:
            self._transport.close()
