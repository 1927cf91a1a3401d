"""The runtime with its models loaded, by the settings: what stands between starting and serving.

Before the first station of the request line, for whoever serves: `heed serve` in a process of its own, or a
replica in somebody's host.
"""

import os

from models.protocol import Runtime
from service.http.context import missing_default
from service.interpreter import calm_interpreter, compute_with, wait_briefly
from service.named_folders import await_folders
from service.settings import Settings, SettingsError

NOTHING = (
    "put a model folder into it (`heed import`), name one with --model NAME=PATH, or start with "
    "--allow-empty and load models later"
)


def load_runtime(settings: Settings) -> Runtime:
    """Return the runtime with its models loaded; torch, seconds to import, only where it is needed.

    Raises ModelError for a named model that cannot be served, SettingsError where there is nothing to serve,
    or not the default model.
    """
    wait_briefly()
    compute_with(settings.instructions)
    from models.runtime import TorchRuntime

    calm_interpreter()
    await_folders(settings.model, os.environ, seconds=settings.load_seconds)
    repository = settings.repository
    if settings.allow_empty and "model_repository" not in settings.model_fields_set:
        repository = repository if repository is not None and repository.is_dir() else None
    runtime = TorchRuntime(
        repository,
        models=settings.models,
        device=settings.device,
        dtype=settings.dtype,
        folders={folder.name: folder.path for folder in settings.model},
        dtypes={folder.name: folder.dtype for folder in settings.model if folder.dtype},
        load_seconds=settings.load_seconds,
        predictions=settings.predictions,
        graphs=settings.cuda_graphs,
    )
    if not runtime.cards() and not settings.allow_empty:
        reasons = [f"{row['name']} is not served: {row['reason']}" for row in runtime.index()]
        raise SettingsError([*reasons, f"there is nothing to serve in {repository}; {NOTHING}"])
    if not settings.allow_empty and (trouble := missing_default(settings.default_model, runtime)):
        raise SettingsError([trouble])
    return runtime
