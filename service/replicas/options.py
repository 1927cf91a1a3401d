"""Settings as an application is given them, in a file of the host's: by their names, each checked."""

import difflib
from collections.abc import Mapping
from typing import Any

from service.settings import Settings, SettingsError

CONNECTIONS = "connections end at the host's proxy, which has limits of its own; remove it"
HOSTS = {  # what the host does in place of our own server
    "host": "the host's proxy has the address; remove it, and set the proxy's",
    "port": "the host's proxy has the address; remove it, and set the proxy's",
    "http_workers": "a replica is one process; remove it, and raise the number of replicas",
    "max_connections": CONNECTIONS,
    "keep_alive_seconds": CONNECTIONS,
    "head_seconds": CONNECTIONS,
    "stall_seconds": CONNECTIONS,
    "min_bytes_per_second": CONNECTIONS,
}


def options_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by field name; names may be in capitals, and lists of texts stand for commas.

    Raises SettingsError with every name that is no setting, or that is not for a replica to have.
    """
    options: dict[str, Any] = {}
    problems = []
    for name, value in args.items():
        field = name.lower()
        if field in HOSTS:
            problems.append(f"{name} is not a replica's: {HOSTS[field]}")
        elif field not in Settings.model_fields:
            problems.append(_unknown(name))
        else:
            options[field] = _written(value)
    if problems:
        raise SettingsError(problems)
    return options


def _unknown(name: str) -> str:
    fields = Settings.model_fields.keys() - HOSTS.keys()
    near = difflib.get_close_matches(name.lower(), fields, n=1)
    rest = f"the nearest is {near[0]}" if near else "`heed serve --help` has them all"
    return f"{name[:64]!r} is not a setting; {rest}"


def _written(value: object) -> object:
    """Return a list of texts as the environment has it."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return value
