"""Fixtures that several test modules share."""

import docker
import pytest


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
