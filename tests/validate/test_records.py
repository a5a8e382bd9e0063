from __future__ import annotations

import pytest
from pydantic import ValidationError

from nas.validate.records import LatencyRow


@pytest.mark.parametrize("published_ms", [0.0, -1.0, float("inf")])
def test_a_published_latency_is_a_time(published_ms: float) -> None:
    with pytest.raises(ValidationError, match="published_ms"):
        LatencyRow(name="a", resolution=224, timed="network", published_ms=published_ms, source="here")
