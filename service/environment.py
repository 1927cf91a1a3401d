"""Reading settings: the environment and the options of the command line, checked together.

Every problem that is found is told at once, with the remedy; no key is ever repeated. OpenTelemetry's own
variables say whether there are traces; where nobody asks for any, nothing of it is imported.
"""

import difflib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from service.service_links import is_service_link
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from service.tracing.tracing import Tracing

PREFIX = "HEED_"
TRACES_TO = "OTEL_EXPORTER_OTLP_ENDPOINT"
ASKING = (TRACES_TO, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
REMEDY = "traces are asked for, but {} is not installed; pip install 'heed-server[otel]', or unset {}"

# What platforms say of where they will ask, and the setting that it gives where nobody has: Vertex AI's, and
# SageMaker's to containers that share a machine.
PLATFORMS = {
    "AIP_HTTP_PORT": "port",
    "AIP_HEALTH_ROUTE": "health_route",
    "AIP_PREDICT_ROUTE": "predict_route",
    "SAGEMAKER_BIND_TO_PORT": "port",
}
ARTIFACTS = "AIP_STORAGE_URI"


def load_settings(environ: Mapping[str, str], options: Mapping[str, Any]) -> Settings:
    """Read `HEED_*` from `environ`; `options`, by field name, win where they are not None.

    What a platform says of port and paths (PLATFORMS) counts where no setting does. What Kubernetes makes for
    Services is passed over (`service_links`). Raises SettingsError with every problem found, none of which
    repeats a value of `api_keys`.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    passed_over = service_links(environ)
    for variable, value in environ.items():
        if variable not in passed_over and variable.upper().startswith(PREFIX):
            field = variable[len(PREFIX) :].lower()
            if field in Settings.model_fields and variable.isupper():
                values[field] = value
            else:
                problems.append(_unknown(variable))
    values.update((name, value) for name, value in options.items() if value is not None)
    said = {field: variable for variable, field in PLATFORMS.items() if environ.get(variable)}
    said = {field: variable for field, variable in said.items() if field not in values}
    values.update((field, environ[variable]) for field, variable in said.items())
    if environ.get(ARTIFACTS) and "model" not in values:
        problems.append(_not_fetched(environ[ARTIFACTS]))
    bad: set[str] = set()
    while True:
        try:
            settings = Settings(**{name: value for name, value in values.items() if name not in bad})
            break
        except ValidationError as error:
            parts = error.errors(include_url=False)
        found = {str(part["loc"][0]): part["msg"] for part in parts if part["loc"]}
        if not found:  # those that are left are good, each by itself
            contradictions = parts[0]["ctx"]["error"].found
            problems += [sentence for names, sentence in contradictions if not names & bad]
            break
        problems += [_problem(field, reason, values, said) for field, reason in found.items()]
        bad |= found.keys()
    if problems:
        raise SettingsError(problems)
    return settings


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that Kubernetes made for Services called heed…: they are no settings."""
    return [variable for variable, value in environ.items() if is_service_link(variable, value)]


def _unknown(variable: str) -> str:
    known = [name.upper() for name in Settings.model_fields]
    near = difflib.get_close_matches(variable[len(PREFIX) :].upper(), known, n=1)
    rest = f"the nearest is {PREFIX}{near[0]}" if near else "`heed serve --help` has them all"
    return f"{variable[:64]!r} is not a setting; {rest}"


def _problem(field: str, reason: str, values: Mapping[str, Any], said: Mapping[str, str]) -> str:
    sentence = reason.removeprefix("Value error, ")
    shown = "" if field == "api_keys" else f" is {str(values.get(field))[:64]!r}"
    return f"{said.get(field, PREFIX + field.upper())}{shown}: {sentence[:1].lower()}{sentence[1:]}"


def _not_fetched(place: str) -> str:
    return (
        f"{ARTIFACTS} is {place[:64]!r}, and this server fetches nothing: have the model in the image, or "
        "fetched by a command before `heed serve`, and name its folder in HEED_MODEL, as model=/mine"
    )


def asked_by(environ: Mapping[str, str], endpoint: str | None) -> list[str]:
    """Return the variables that ask for traces, none where OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER forbids.

    `endpoint` is OTLP_ENDPOINT. As OpenTelemetry has it, a variable that is empty is not set.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    if environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return []
    asking = [variable for variable in ASKING if environ.get(variable, "").strip()]
    return [*asking, "HEED_OTLP_ENDPOINT"] if endpoint else asking


def tracing_of(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> "Tracing | None":
    """Return what sends an application's traces, None where nobody asks for them; raise SettingsError."""
    asking = asked_by(environ, endpoint)
    if not asking:
        return None
    said = environ.get(TRACES_TO, "").strip()
    if endpoint and said and said.rstrip("/") != endpoint.rstrip("/"):
        raise SettingsError(
            [f"HEED_OTLP_ENDPOINT is {endpoint!r} and {TRACES_TO} {said!r}, which mean the same; unset one"]
        )
    try:
        from service.tracing.tracing import Tracing

        return Tracing.of(environ, endpoint)
    except ImportError as missing:
        raise SettingsError([REMEDY.format(missing.name or missing, asking[0])]) from missing
    except Exception as wrong:  # whatever an exporter makes of its variables
        raise SettingsError([f"traces cannot be sent as {asking[0]} and the like say: {wrong}"]) from wrong


def require_tracing(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise SettingsError where traces are asked for and cannot be made, before anything is loaded."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # what there is to say is said when it is made for good
    try:
        tracing = tracing_of(endpoint, environ)
    finally:
        logging.disable(level)
    if tracing is not None:
        tracing.stop()
