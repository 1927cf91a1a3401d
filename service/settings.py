"""What an operator can set: `HEED_<NAME>` in the environment, `--<name>` on `heed serve`.

Before the first station of the request line. Everything is checked once, at the start: unknown names, numbers
out of range and settings that contradict each other refuse to start. Only `app` and `cli` read settings.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from service.http.browsers.origins import read_ancestors, read_origins, read_path, read_prefix
from service.named_folders import NamedFolder, read_folders, read_name, read_names

KIB, MIB, GIB = 2**10, 2**20, 2**30
KEY = re.compile(r"[\x21-\x7e]{1,256}")  # what fits in a header without quoting
ADDRESS = re.compile(r"https?://[\x21-\x7e]{1,1024}")


class SettingsError(Exception):
    """The server refuses to start; `problems` are sentences that name the setting and the remedy."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


class Contradictions(ValueError):
    """Settings that cannot hold together; `found` are the fields of each, and a sentence that names them."""

    def __init__(self, found: list[tuple[set[str], str]]) -> None:
        self.found = found
        super().__init__("; ".join(sentence for _, sentence in found))


def _folders(given: object) -> object:
    """Read what was given as one text, or as several: `NAME=PATH[:dtype]`."""
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return read_folders(texts)
    return given


def _keys(text: object) -> object:
    """Split a comma-separated list of keys; the empty string is none, an empty entry is a mistake."""
    if not isinstance(text, str):
        return text
    if not text:
        return ()
    keys = [key.strip() for key in text.split(",")]
    if not all(keys):
        raise ValueError("an entry is empty; remove the comma, or unset it to serve without keys")
    if not all(KEY.fullmatch(key) for key in keys):
        raise ValueError("a key is 1 to 256 printable ASCII characters without spaces")
    return tuple(keys)


def _folder(text: object) -> object:
    """Refuse the empty string, which would be the folder that the server was started in."""
    if text == "":
        raise ValueError("it is empty; name a folder ('.' is the one you are in), or unset it")
    return text


def _endpoint(text: object) -> object:
    """Refuse what is no address of a collector."""
    if isinstance(text, str) and not ADDRESS.fullmatch(text):
        raise ValueError("write it as http://host:4318 (OTLP over HTTP) or http://host:4317 (gRPC)")
    return text


Folder = Annotated[Path, BeforeValidator(_folder)]
Endpoint = Annotated[str | None, BeforeValidator(_endpoint)]
Names = Annotated[tuple[str, ...] | None, BeforeValidator(read_names)]
Name = Annotated[str | None, BeforeValidator(read_name)]
Folders = Annotated[tuple[NamedFolder, ...], BeforeValidator(_folders)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)]
Origins = Annotated[tuple[str, ...], BeforeValidator(read_origins)]
Ancestors = Annotated[tuple[str, ...], BeforeValidator(read_ancestors)]
Prefix = Annotated[str | None, BeforeValidator(read_prefix)]
Route = Annotated[str | None, BeforeValidator(read_path)]


class Settings(BaseModel):
    """One field a setting: its default, its bounds and its line in the docs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1, max_length=255, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port for the Open Inference Protocol over gRPC; 0 takes a free one, default: none",
    )
    http_workers: int = Field(
        1,
        ge=1,
        le=64,
        description="HTTP processes; 1 serves from the device's own, more stand in front of it",
    )
    model_repository: Folder = Field(Path("repository"), description="folder of model folders")
    model: Folders = Field(
        (),
        description="one folder to serve under a name, NAME=PATH or NAME=PATH:dtype; comma-separated, or "
        "given again; alone, it is all that is served",
    )
    models: Names = Field(
        None, description="models to load, comma-separated, name or name:dtype; empty loads all"
    )
    default_model: Name = Field(
        None, description="model that answers requests which name none; default: the only one that can"
    )
    allow_empty: bool = Field(default=False, description="whether to start with nothing to serve")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="`auto`, `cpu`, `cuda` or `cuda:n`; `auto` takes CUDA where there is one",
    )
    dtype: Literal["float32", "tf32", "bfloat16", "float16", "int8"] = Field(
        "float32",
        description="what weights are kept in; on a GPU, activations too, and no int8; `tf32` on a GPU only",
    )
    cuda_graphs: bool = Field(default=True, description="whether small batches on a GPU are CUDA graphs")
    predictions: bool = Field(default=False, description="whether models' output tables are loaded, too")
    instructions: Literal[
        "auto", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "avx512_amx", "neon", "none"
    ] = Field("auto", description="what compiled code uses of the processor; `auto` is the widest there is")
    api_keys: Keys = Field(
        (), description="keys that callers may use, comma-separated; empty serves everyone"
    )
    key_requests_per_second: int = Field(
        0, ge=0, le=1_000_000, description="requests a second of one key, or address without keys; 0 is off"
    )
    key_tokens_per_second: int = Field(
        0, ge=0, le=2**32, description="tokens a second of one key, or address without keys; 0 is off"
    )
    key_concurrency: int = Field(
        0, ge=0, le=2**20, description="requests at a time of one key, or address without keys; 0 is off"
    )
    cors_origins: Origins = Field(
        (), description="origins of pages whose scripts may ask, with commas between; `*` is every page"
    )
    frame_ancestors: Ancestors = Field(
        (), description="origins whose pages may show the Explorer in a frame, with commas between"
    )
    root_path: Prefix = Field(None, description="path under which a proxy has this server, as /heed")
    health_route: Route = Field(None, description="one more path of GET /ping; default: AIP_HEALTH_ROUTE")
    predict_route: Route = Field(
        None, description="one more path of POST /invocations; default: AIP_PREDICT_ROUTE"
    )
    max_connections: int = Field(
        0, ge=0, le=2**20, description="connections of a process; 0 is what its limit of open files leaves"
    )
    keep_alive_seconds: int = Field(
        75, ge=1, le=86_400, description="how long a connection is kept on which nothing is asked"
    )
    head_seconds: int = Field(10, ge=1, le=3600, description="time to send the head of a request")
    stall_seconds: int = Field(
        20, ge=1, le=3600, description="how far a body or a reader may fall behind MIN_BYTES_PER_SECOND"
    )
    min_bytes_per_second: int = Field(
        500, ge=0, le=2**30, description="least rate of a body and of a reader; 0: any byte is enough"
    )
    max_body_bytes: int = Field(64 * MIB, ge=KIB, le=16 * GIB, description="largest request body")
    max_result_bytes: int = Field(
        256 * MIB, ge=KIB, le=64 * GIB, description="largest result of one request, all its tensors"
    )
    max_memory_bytes: int | None = Field(
        None,
        ge=16 * MIB,
        le=16384 * GIB,
        description="memory for all requests together: bodies, results, replies until sent; default: half of "
        "what is free of the container's, or the machine's",
    )
    max_sequence_tokens: int = Field(32768, ge=1, le=2**24, description="longest sequence")
    max_batch_tokens: int = Field(
        16384, ge=1, le=2**28, description="tokens in one batch; a longer sequence runs alone"
    )
    max_batch_scores: int = Field(
        2**27,
        ge=1,
        le=2**44,
        description="score elements, Σ H·T·S, in one batch; a larger sequence runs alone",
    )
    max_queued_requests: int = Field(
        512, ge=1, le=2**20, description="requests that may wait; one more is refused with 429"
    )
    max_queued_tokens: int = Field(
        2**18, ge=1, le=2**32, description="tokens that may wait; more are refused with 429"
    )
    max_wait_ms: int = Field(
        0, ge=0, le=10_000, description="how long a free device waits for a fuller batch"
    )
    deadline_ms: int = Field(
        30_000, ge=1, le=3_600_000, description="time to answer a request that names no deadline"
    )
    truncate: bool = Field(default=False, description="whether texts are cut where a request does not say")
    drain_seconds: int = Field(
        30, ge=0, le=3600, description="time to finish accepted requests after SIGTERM"
    )
    watchdog_seconds: int = Field(
        10, ge=2, le=3600, description="how long a device or a process may give no sign of life"
    )
    load_seconds: int = Field(
        600, ge=1, le=86_400, description="how long the load of one model may take, reading and trying it"
    )
    admin: bool = Field(default=False, description="whether models may be loaded and unloaded over HTTP")
    log_format: Literal["json", "console"] = Field(
        "json", description="json: one object a line; console: text for a terminal"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severity that is logged"
    )
    otlp_endpoint: Endpoint = Field(
        None, description="where to send traces: short for OpenTelemetry's OTEL_EXPORTER_OTLP_ENDPOINT"
    )

    @property
    def repository(self) -> Path | None:
        """The folder of model folders; None where folders are named and it is not, nor anything of it."""
        given = {folder.name for folder in self.model}
        others = {name.partition(":")[0] for name in self.models or ()} - given
        wanted = "model_repository" in self.model_fields_set or bool(others)
        return self.model_repository if wanted or not self.model else None

    @property
    def named(self) -> frozenset[str]:
        """The names of the models that must be served."""
        named = {name.partition(":")[0] for name in self.models or ()}
        named |= {folder.name for folder in self.model}
        return frozenset(named if self.default_model is None else named | {self.default_model})

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse settings that cannot hold together; every sentence names both."""
        if found := list(self._contradictions()):
            raise Contradictions(found)
        return self

    def _contradictions(self) -> Iterator[tuple[set[str], str]]:
        for larger, smaller, otherwise in (
            ("max_queued_tokens", "max_sequence_tokens", "the longest sequence could never be admitted"),
            ("max_queued_tokens", "max_batch_tokens", "no batch could ever fill"),
            ("max_batch_scores", "max_batch_tokens", "a token has at least one score"),
        ):
            if getattr(self, larger) < getattr(self, smaller):
                yield (
                    {larger, smaller},
                    f"{larger.upper()} {getattr(self, larger)} is under {smaller.upper()} "
                    f"{getattr(self, smaller)}: {otherwise}; raise the first",
                )
        if self.max_wait_ms >= self.deadline_ms:
            yield (
                {"max_wait_ms", "deadline_ms"},
                f"MAX_WAIT_MS {self.max_wait_ms} is not under DEADLINE_MS {self.deadline_ms}: "
                "every request could expire while waiting; lower the first",
            )
        if self.grpc_port and self.grpc_port == self.port:
            yield (
                {"grpc_port", "port"},
                f"GRPC_PORT and PORT are both {self.port}: gRPC needs a port of its own; change one of them",
            )
        if self.health_route and self.health_route == self.predict_route:
            yield (
                {"health_route", "predict_route"},
                f"HEALTH_ROUTE and PREDICT_ROUTE (AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE) are both "
                f"{self.health_route}, which can be one of them alone; change one, or leave one out for its "
                "own path, /ping or /invocations",
            )
        dtypes = {folder.name: folder.dtype for folder in self.model if folder.dtype}
        for name, _, dtype in (one.partition(":") for one in self.models or ()):
            if dtype and dtypes.get(name, dtype) != dtype:
                yield (
                    {"model", "models"},
                    f"MODEL gives {name} the dtype {dtypes[name]} and MODELS {dtype}; remove one of them",
                )
        if self.default_model is not None and self.models and not self.allow_empty:
            served = {name.partition(":")[0] for name in self.models} | {one.name for one in self.model}
            if self.default_model not in served:
                yield (
                    {"default_model", "models"},
                    f"DEFAULT_MODEL is {self.default_model}, which MODELS leaves out; add it there",
                )
