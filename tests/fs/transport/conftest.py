"""Mounts of this folder's tests take the transport that a user would get."""

import pytest


@pytest.fixture(scope="module")
def transport() -> str:
    return "auto"
