"""What the tests of pulling have."""

import pytest

from tests.client.conftest import client, mirror, published, updatable
from tests.mirror.histories import History, make

__all__ = ["client", "mirror", "published", "updatable"]


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A history of small systems; nobody may change its files."""
    return make(tmp_path_factory.mktemp("history"))
