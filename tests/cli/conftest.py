"""The published fixture OS and clients of it, for tests of commands."""

from tests.client.conftest import client, published, updatable

__all__ = ["client", "published", "updatable"]
