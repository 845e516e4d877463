"""What every test shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.postgres import Cluster, postgres

# CI machines are noisy: a slow example is no bug, and a fixed seed would look at the same examples for ever.
settings.register_profile(
    "gridwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("gridwatch")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _logging_as_imported() -> Iterator[None]:
    """A command that sets up logging would leave the next test a logger on a closed standard error."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def real_material() -> Path:
    """The folder of real labelled material, which never lies in this repository; skips loudly without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("REAL MATERIAL ABSENT: no real clips and pictures beside the repository")
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real PostgreSQL that all tests share, each with a database of its own; skips loudly without it."""
    with postgres() as running:
        yield running
