"""The builder of an application of Ray's, and what Ray asks of a replica beside its requests.

Each replica loads its models and wires its application in its own process: what travels there is a class and
a function, and settings as they were written. No model, and no object of ours, is ever pickled.
"""

import os
from typing import Any

from ray import serve
from ray.util import metrics

from models.errors import ModelError
from service.environment import load_settings
from service.replicas.forwarding import Forwarding
from service.replicas.options import options_of
from service.replicas.replica import Replica, load_replica
from service.settings import SettingsError

ONGOING_REQUESTS = 64  # of a replica; Ray's own 5 would bound every batch
SPARE_SECONDS = 10  # beyond those of the drain, for replies to be read
HEALTH_SECONDS = 5


class Ingress:
    """What Ray asks of a replica."""

    app: Replica  # given by `serve.ingress`

    async def check_health(self) -> None:
        """Raise when nothing can be answered any more: Ray puts another replica in the place of this one.

        On the event loop of requests, so that one which does not come round is noticed, too.
        """
        if trouble := self.app.service.health.trouble:
            raise RuntimeError(trouble)


def app(args: dict[str, Any]) -> serve.Application:
    """Return the application; `args` are settings by their names, which win over `HEED_*` of the environment.

    How many replicas there are, on what, and when others are started is said where it is deployed. Raises
    SettingsError.
    """
    options = options_of(args)
    settings = load_settings(os.environ, options)

    def build() -> Replica:
        return _build(options)

    deployment = serve.deployment(
        serve.ingress(build)(Ingress),
        name="heed",
        max_ongoing_requests=min(ONGOING_REQUESTS, settings.max_queued_requests),
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=settings.watchdog_seconds,
        graceful_shutdown_timeout_s=settings.drain_seconds + SPARE_SECONDS,
    )
    return deployment.bind()


def _build(options: dict[str, Any]) -> Replica:
    """Return the replica of this process."""
    try:
        replica = load_replica(options)
    except (ModelError, SettingsError) as error:
        raise RuntimeError(f"heed: {error}") from None  # ours would have to be pickled on its way
    Forwarding(replica.service.metrics.page, _gauge).start()
    return replica


def _gauge(name: str, meaning: str, labels: tuple[str, ...]) -> metrics.Gauge:
    """Return a gauge of Ray's that says which replica it is of."""
    here = serve.get_replica_context()
    own = {"application": here.app_name, "deployment": here.deployment, "replica": here.replica_tag}
    gauge = metrics.Gauge(name, description=meaning, tag_keys=(*own, *labels))
    gauge.set_default_tags(own)
    return gauge
