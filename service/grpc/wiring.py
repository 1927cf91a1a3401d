"""The gRPC server of an application, wired: settings become plain values, as in `service.app`."""

from starlette.types import ASGIApp

from service.grpc.server import MORE_CALLS, GrpcLimits, GrpcServer
from service.lifetime import Service
from service.settings import Settings

MOST_CONNECTIONS = 1024  # where nobody says; a client makes one and keeps it
FEWEST_READS, MOST_READS = 4, 256  # messages that come at a time
READ_PART = 4  # of the budget of memory: a quarter, for messages that nobody has counted yet
OVER = 2  # messages up to so many times MAX_BODY_BYTES are read, to be refused in our own words


def grpc_server(settings: Settings, app: ASGIApp, service: Service) -> GrpcServer:
    """Return the server of one process; `service` are the parts of `app`."""
    assert settings.grpc_port is not None
    message_bytes = OVER * settings.max_body_bytes
    places = service.places
    places.others = settings.max_connections or MOST_CONNECTIONS
    reads = service.budget.limit // READ_PART // message_bytes
    limits = GrpcLimits(
        message_bytes=message_bytes,
        reads=max(FEWEST_READS, min(MOST_READS, reads)),
        read_seconds=settings.deadline_ms / 1000,
        calls=settings.max_queued_requests + MORE_CALLS,
        connections=lambda: places.others,  # known at the start: as many as there are descriptors for
        idle_seconds=settings.keep_alive_seconds,
        handshake_seconds=settings.head_seconds,
    )
    return GrpcServer(
        app, host=settings.host, port=settings.grpc_port, limits=limits, ready=lambda: service.health.ready
    )
