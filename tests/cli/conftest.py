"""The published fixture OS, for tests of commands."""

from tests.client.conftest import published

__all__ = ["published"]
