"""Fixtures for the whole suite: the real model, and real sentences."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_server import Server, serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The demo models, put in place once (at once, where `make models` has run)."""
    folder = ROOT / "repository"
    from models.training.demo import place_demo_models

    place_demo_models(folder)
    return folder


@pytest.fixture(scope="session")
def minilm_folder(repository: Path) -> Path:
    return repository / "minilm"


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """One `heed serve` of minilm with the settings as they are, for every test that does not stop it."""
    with serving(repository) as running:
        yield running


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Fifty pieces of real English, the licence's, of one word to about three hundred tokens."""
    words = (ROOT / "LICENSE").read_text().split()
    chance = random.Random(0)
    lengths = [1, 2, 3, *(int(1.1 ** chance.uniform(15, 57)) for _ in range(47))]
    starts = [chance.randrange(len(words) - length) for length in lengths]
    return [" ".join(words[at : at + length]) for at, length in zip(starts, lengths, strict=True)]
