"""What tests of the C library share: it must be there to be compared, and can be told to be absent."""

import pytest

from athanor.base import native

needs_library = pytest.mark.skipif(
    not native.available(), reason=f"the C library is not in use ({native.describe()}): `make setup` builds it"
)


@pytest.fixture(params=["the C library", "Python"])
def either(request, monkeypatch):
    """Runs a test twice: with the C library, and without it."""
    if request.param == "Python":
        monkeypatch.setattr(native, "available", lambda: False)
    elif not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    return request.param
