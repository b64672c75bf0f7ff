"""What tests of the client share."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltaqmmm.ipi import UnixAddress
from tests.integration.ipi.server import unique_name


@pytest.fixture
def address():
    address = UnixAddress(unique_name("scripted"))
    yield address
    Path(address.path).unlink(missing_ok=True)
