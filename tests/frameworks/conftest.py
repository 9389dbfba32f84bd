"""Mounts for the tests of what is built on the client."""

from tests.client.conftest import mount, plain_environment, shared

__all__ = ["mount", "plain_environment", "shared"]
