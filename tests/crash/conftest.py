"""What the tests of pulling have."""

from tests.client.conftest import mirror, published, updatable

__all__ = ["mirror", "published", "updatable"]
