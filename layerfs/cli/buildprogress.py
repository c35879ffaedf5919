"""What a build shows: BuildKit's plain form, a live one on a terminal, JSON lines, and that of docker's old builder."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from layerfs.build.events import Clock

if TYPE_CHECKING:
    from rich.text import Text

    from layerfs.build.events import BuildEvent

FORMS = ("auto", "plain", "tty", "json", "rawjson", "legacy", "quiet")
_SHOWN = 6  # lines of output that the live form shows of a step
_LOG = 5000  # and how many it keeps, for when the step fails


class Printer(Protocol):
    def __call__(self, event: BuildEvent) -> None: ...


def printable(text: str) -> str:
    """A line of a program's, without what could change the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "�" for char in text)


class Lines:
    """A program's output, cut into whole lines."""

    def __init__(self) -> None:
        self._rest: dict[tuple[int, int], bytes] = {}

    def take(self, event: BuildEvent) -> list[str]:
        key = (event.step, event.stream)
        *whole, rest = (self._rest.pop(key, b"") + event.data).split(b"\n")
        if rest:
            self._rest[key] = rest
        return [_shown(line) for line in whole]

    def rest(self, step: int) -> list[str]:
        """What ended without a newline."""
        return [_shown(self._rest.pop(key)) for key in sorted(self._rest) if key[0] == step]


def _shown(line: bytes) -> str:
    return printable(line.rstrip(b"\r").decode("utf-8", "replace"))


class Plain:
    """BuildKit's `--progress plain`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lines = stream, Lines()

    def __call__(self, event: BuildEvent) -> None:
        if event.meta:
            return
        step = f"#{event.step}"
        if event.kind == "start":
            self._put(f"{step} {printable(event.name)}")
        elif event.kind == "output":
            for line in self._lines.take(event):
                self._put(f"{step} {event.seconds:.3f} {line}")
        elif event.kind in ("done", "cached", "failed"):
            for line in self._lines.rest(event.step):
                self._put(f"{step} {event.seconds:.3f} {line}")
            ends = {"done": f"DONE {event.seconds:.1f}s", "cached": "CACHED", "failed": f"ERROR: {event.text}"}
            self._put(f"{step} {ends[event.kind]}\n")
        else:
            self._other(event)

    def _other(self, event: BuildEvent) -> None:
        if event.kind == "warning":
            self._put(f"WARN: {printable(event.text)}")
        elif event.kind == "note":
            self._put(printable(event.text))
        elif event.kind == "image":
            self._put(f"writing image {event.image}")
            if event.name:
                self._put(f"naming to {event.name}")
        elif event.kind == "debug":
            self._put(f"the failed step can be entered: layerfs run -it {event.image[7:19]} sh")

    def _put(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class Quiet:
    """Nothing, but for what a step said that failed."""

    only_failures = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said: dict[int, deque[str]] = {}
        self._lines = Lines()

    def __call__(self, event: BuildEvent) -> None:
        if event.kind == "output":
            self._said.setdefault(event.step, deque(maxlen=_LOG)).extend(self._lines.take(event))
        elif event.kind in ("done", "failed"):
            said = [*self._said.pop(event.step, ()), *self._lines.rest(event.step)]
            if event.kind == "failed":
                self._stream.writelines(f"{line}\n" for line in said)


class Json:
    """One object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: BuildEvent) -> None:
        self._stream.write(json.dumps(event.document(), ensure_ascii=False) + "\n")
        self._stream.flush()


class Legacy:
    """docker's old builder: a step after the other, with the image that each one made. Containers of steps have ended
    by then; their names are shown because who reads the output looks for these lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._container = ""
        self._text = ""
        self._told = False

    def __call__(self, event: BuildEvent) -> None:
        getattr(self, f"_{event.kind}", lambda event: None)(event)
        self._stream.flush()

    def _put(self, line: str) -> None:
        self._stream.write(line + "\n")

    def _context(self, event: BuildEvent) -> None:
        from layerfs.image.text import human_size

        self._put(f"Sending build context to Docker daemon  {human_size(event.total)}")

    def _start(self, event: BuildEvent) -> None:
        self._container, self._text = "", event.text
        self._put(f"Step {event.number}/{event.total} : {printable(event.text)}")

    def _runs(self) -> None:
        """The old builder had a container for everything but FROM, ADD and COPY."""
        if not self._container and self._text.split(None, 1)[0].upper() not in ("FROM", "ADD", "COPY"):
            self._container = os.urandom(6).hex()
            self._put(f" ---> Running in {self._container}")

    def _output(self, event: BuildEvent) -> None:
        self._runs()
        self._stream.write(event.data.decode("utf-8", "replace"))

    def _done(self, event: BuildEvent) -> None:
        self._runs()
        if self._container:
            self._put(f"Removing intermediate container {self._container}")
        self._put(f" ---> {event.image[7:19]}")

    def _cached(self, event: BuildEvent) -> None:
        self._put(" ---> Using cache")
        self._put(f" ---> {event.image[7:19]}")

    def _failed(self, event: BuildEvent) -> None:
        self._runs()
        if self._container:
            self._put(f"Removing intermediate container {self._container}")

    def _warning(self, event: BuildEvent) -> None:
        self._put(f"[Warning] {printable(event.text)}")

    def _image(self, event: BuildEvent) -> None:
        if not self._told:
            self._told = True
            self._put(f"Successfully built {event.image[7:19]}")
        if event.name:
            self._put(f"Successfully tagged {event.name}")

    def _debug(self, event: BuildEvent) -> None:
        self._put(f"the failed step can be entered: layerfs run -it {event.image[7:19]} sh")


class _Running:
    """A step that is shown."""

    def __init__(self, name: str) -> None:
        self.name, self.clock = name, Clock()
        self.lines: deque[str] = deque(maxlen=_LOG)


class Live:
    """On a terminal: what runs now, with its last lines; what is over scrolls away above."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as Display

        self._running: dict[int, _Running] = {}
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._display = Display(console=self._console, get_renderable=self._shown, refresh_per_second=8, transient=True)
        self._lines = Lines()

    def __enter__(self) -> Live:
        self._display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._running = {}
        self._display.__exit__(None, None, None)

    def __call__(self, event: BuildEvent) -> None:
        if event.meta:
            return
        if event.kind == "start":
            self._running[event.step] = _Running(printable(event.name))
        elif event.kind == "output":
            self._running[event.step].lines.extend(self._lines.take(event))
        elif event.kind in ("done", "cached", "failed"):
            self._end(event)
        elif event.kind == "warning":
            self._keep(f"WARN: {printable(event.text)}")
        elif event.kind == "note":
            self._keep(f" => {printable(event.text)}")
        elif event.kind == "image":
            self._keep(f" => {event.name or event.image}")
        elif event.kind == "debug":
            self._keep(f"the failed step can be entered: layerfs run -it {event.image[7:19]} sh")

    def _end(self, event: BuildEvent) -> None:
        step = self._running.pop(event.step)
        state = {"done": "", "cached": "CACHED ", "failed": "ERROR "}[event.kind]
        self._keep(self._fitted(f" => {state}{step.name}", event.seconds))
        if event.kind == "failed":
            lines = [*step.lines, *self._lines.rest(event.step)]
            self._console.print("\n".join(f" > {line}" for line in lines), soft_wrap=True, end="\n" if lines else "")

    def _keep(self, line: str | Text) -> None:
        """Above what is shown, which is brought up to date first: it is drawn again below the line."""
        self._display.refresh()
        self._console.print(line)

    def _fitted(self, name: str, seconds: float) -> Text:
        """One line, whose end is the time, however long the name is."""
        from rich.text import Text

        end = f"  {seconds:.1f}s"
        text = Text(name, overflow="ellipsis", no_wrap=True)
        text.truncate(max(1, self._console.width - len(end)), overflow="ellipsis")
        return text.append(end)

    def _shown(self) -> Text:
        """Asked for by another thread, eight times a second."""
        from rich.text import Text

        shown = Text(overflow="ellipsis", no_wrap=True)
        for step in list(self._running.values()):
            shown.append(self._fitted(f" => {step.name}", step.clock())).append("\n")
            for line in list(step.lines)[-_SHOWN:]:
                shown.append(f" => => {line}\n", style="dim")
        return shown


@contextmanager
def printer(form: str) -> Iterator[Printer]:
    """The callback of a form; `auto` is the live one on a terminal."""
    if form == "quiet":
        yield Quiet(sys.stderr)
    elif form == "tty" or (form == "auto" and sys.stderr.isatty()):
        with Live(sys.stderr) as live:
            yield live
    elif form in ("json", "rawjson"):
        yield Json(sys.stderr)
    elif form == "legacy":
        yield Legacy(sys.stdout)
    else:
        yield Plain(sys.stderr)
