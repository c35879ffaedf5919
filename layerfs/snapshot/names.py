"""Names of containers: what may be one, and what they are called when nobody says."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

from layerfs._lazy import pattern
from layerfs.errors import InvalidInput

__all__ = ["NAME_MAX", "check_name", "generate_name", "is_name"]

NAME_MAX = 255  # of a snapshot
_SNAPSHOT = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_PATTERN = pattern(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

_ADJECTIVE_WORDS = """
    able agile alert amber ample awake balanced blithe bold bright brisk calm candid careful cheerful civil clear clever
    cosy crisp curious daring dapper deft eager earnest easy elated fair faithful fearless fluent frank fresh friendly
    gallant gentle genial glad golden graceful grand handy happy hardy hearty helpful honest hopeful humble jolly jovial
    keen kind lively loyal lucid lucky mellow merry mighty modest neat nimble noble patient placid plucky polite proud
    prudent quick quiet ready robust serene sharp sincere sober spry stable steady stoic sturdy sunny swift tactful tidy
    upbeat vivid warm watchful willing wise witty zesty
"""

_SURNAME_WORDS = """
    abel agnesi ampere anning avogadro babbage bassi bernoulli boole born bose brahe brown cannon cantor carson cauchy
    cavendish cerf chandra clarke codd cori curie dalton darwin dijkstra dirac ehrlich einstein erdos euclid euler
    faraday fermat fermi feynman fibonacci fleming fourier franklin galileo galois gauss germain goodall hamilton hardy
    hertz herschel hilbert hoare hodgkin hooke hopper hubble huygens hypatia joule kepler khayyam kilby knuth kolmogorov
    lagrange lamarr lamport laplace leavitt leibniz liskov lovelace maxwell mcclintock meitner mendel mirzakhani moore
    neumann newton nightingale noether pascal pasteur pauli payne planck poincare ptolemy ramanujan riemann ritchie
    rubin sagan salk shannon sinoussi somerville tesla thompson torvalds turing volta wallace wiles wozniak wu yalow
"""


def check_name(name: str) -> str:
    """A usable container name without its leading slash; docker's rule and words.

    Raises:
        InvalidInput: too short, or with other characters.
    """
    if not _PATTERN.match(name):
        raise InvalidInput(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def is_name(text: str) -> bool:
    """Whether it could name a snapshot."""
    return len(text) <= NAME_MAX and bool(_SNAPSHOT.match(text))


def generate_name(taken: Callable[[str], bool]) -> str:
    """`adjective_surname`; a digit is added when all tries are taken."""
    for attempt in range(1000):
        name = f"{_any_of(_words(_ADJECTIVE_WORDS))}_{_any_of(_words(_SURNAME_WORDS))}"
        if name == "boring_wozniak":  # tradition
            continue
        if attempt >= 5:
            name += _any_of("0123456789")
        if not taken(name):
            return name
    return f"container_{os.urandom(8).hex()}"


@functools.cache
def _words(text: str) -> list[str]:
    return text.split()


def _any_of(words: Sequence[str]) -> str:
    """`random.choice`, without that module's start-up."""
    return words[int.from_bytes(os.urandom(4)) % len(words)]
