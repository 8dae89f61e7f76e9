"""What the tests of pulling have."""

from tests.client.conftest import client, mirror, published, updatable

__all__ = ["client", "mirror", "published", "updatable"]
