"""Fixtures that several test modules share."""

import signal
from collections.abc import Iterator

import docker
import pytest


def pytest_configure() -> None:
    """Let processes that tests start get Ctrl-C, also where a shell started pytest in the background."""
    # A shell has its background jobs ignore the signal, and every process inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that need an engine: they take longest, and at the end one would leave cores idle."""
    slow = {item.path for item in items if item.get_closest_marker("engine")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def engine():
    """A client of the Docker engine that answers here; tests are skipped where none does."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in another order are other sums: runs that are compared bit by bit use one thread each."""
    import torch  # the organiser's side is tested without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
