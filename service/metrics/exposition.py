"""The page in the Prometheus text format, or in OpenMetrics, which carries exemplars."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Exposition:
    """One format of the page; `media_type` and `version` are what callers name it by."""

    media_type: str
    version: str
    content_type: str
    write: Callable[[Collector], bytes]


TEXT = Exposition("text/plain", "0.0.4", CONTENT_TYPE_PLAIN_0_0_4, generate_latest)
OPENMETRICS = Exposition("application/openmetrics-text", "1.0.0", CONTENT_TYPE_LATEST, generate_openmetrics)
