"""One server with the embedded model for every test that talks to it: it takes long to start."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def tiny_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `llama-omni serve`, ready to talk."""
    from tests.serve import tiny_server

    with tiny_server.tiny_server(tmp_path_factory.mktemp("serve") / "log") as address:
        yield address
