from pathlib import Path

import pytest

from service.environment import PREFIX, load_settings, service_links
from service.named_folders import NamedFolder, await_folders
from service.settings import Settings, SettingsError


def refused(environ: dict[str, str], **options: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, options)
    return str(caught.value)


def test_defaults_are_the_contracts() -> None:
    settings = load_settings({}, {})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.model_repository == Path("repository")
    assert settings.models is None
    assert (settings.device, settings.dtype) == ("auto", "float32")
    assert settings.api_keys == ()
    assert settings.max_body_bytes == 64 * 1024 * 1024
    assert settings.max_result_bytes == 256 * 1024 * 1024
    assert (settings.max_sequence_tokens, settings.max_batch_tokens) == (32768, 16384)
    assert (settings.max_queued_requests, settings.max_wait_ms) == (512, 0)
    assert (settings.deadline_ms, settings.drain_seconds) == (30000, 30)
    assert settings.admin is False
    assert settings.log_format == "json"


def test_environment_is_read_and_options_win_over_it() -> None:
    environ = {"HEED_PORT": "9000", "HEED_DTYPE": "bfloat16", "PATH": "/bin"}
    settings = load_settings(environ, {"port": "9001", "dtype": None})
    assert (settings.port, settings.dtype) == (9001, "bfloat16")


def test_lists_are_split_at_commas() -> None:
    settings = load_settings({"HEED_MODELS": "minilm, demo-attention", "HEED_API_KEYS": "one,two"}, {})
    assert settings.models == ("minilm", "demo-attention")
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


def test_a_model_may_be_given_a_dtype_of_its_own() -> None:
    assert load_settings({"HEED_MODELS": "minilm:bfloat16,other"}, {}).models == ("minilm:bfloat16", "other")
    assert "dtype" in refused({"HEED_MODELS": "minilm:float8"})
    assert "named twice" in refused({"HEED_MODELS": "minilm,minilm:float16"})
    assert "float32, tf32, bfloat16, float16 or int8" in refused({"HEED_MODELS": "minilm:int4"})


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_list_of_models_loads_all(value: str) -> None:
    assert load_settings({"HEED_MODELS": value}, {}).models is None


def test_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    assert "'HEED_MAX_BODY_BYTE' is not a setting; the nearest is HEED_MAX_BODY_BYTES" in refused(
        {"HEED_MAX_BODY_BYTE": "1"}
    )


def test_lower_case_name_is_unknown_rather_than_ignored() -> None:
    assert "HEED_PORT" in refused({"heed_port": "1"})


# What the kubelet makes of a Service called heed, and of one called heed-model.
SERVICE_LINKS = {
    "HEED_SERVICE_HOST": "10.0.0.1",
    "HEED_SERVICE_PORT": "80",
    "HEED_SERVICE_PORT_HTTP": "80",
    "HEED_PORT": "tcp://10.0.0.1:80",
    "HEED_PORT_80_TCP": "tcp://10.0.0.1:80",
    "HEED_PORT_80_TCP_PROTO": "tcp",
    "HEED_PORT_80_TCP_PORT": "80",
    "HEED_PORT_80_TCP_ADDR": "10.0.0.1",
    "HEED_MODEL_SERVICE_HOST": "fd00::1",
    "HEED_MODEL_SERVICE_PORT": "9000",
    "HEED_MODEL_SERVICE_PORT_METRICS": "9000",
    "HEED_MODEL_PORT": "udp://[fd00::1]:9000",
    "HEED_MODEL_PORT_9000_UDP": "udp://[fd00::1]:9000",
    "HEED_MODEL_PORT_9000_UDP_PROTO": "udp",
    "HEED_MODEL_PORT_9000_UDP_PORT": "9000",
    "HEED_MODEL_PORT_9000_UDP_ADDR": "fd00::1",
}


def test_service_links_of_kubernetes_are_no_settings() -> None:
    environ = {"PATH": "/bin", "HEED_DTYPE": "float16", **SERVICE_LINKS}
    settings = load_settings(environ, {})
    assert (settings.port, settings.model, settings.dtype) == (8000, (), "float16")
    assert service_links(environ) == list(SERVICE_LINKS)
    assert load_settings(SERVICE_LINKS, {"port": "9000"}).port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEED_PORT", "10.0.0.1:80"),
        ("HEED_PORT", "http://10.0.0.1:80"),
        ("HEED_MODEL_PORT", "9000"),
        ("HEED_SERVICE", "10.0.0.1"),
        ("HEED_PORT_80", "tcp"),
        ("HEED_PORT_80_TCP", "yes"),
        ("heed_service_host", "10.0.0.1"),
    ],
)
def test_what_only_resembles_a_service_link_is_refused(name: str, value: str) -> None:
    assert name in refused({name: value})


def test_no_setting_could_be_taken_for_a_service_link() -> None:
    assert service_links({PREFIX + name.upper(): "80" for name in Settings.model_fields}) == []


@pytest.mark.parametrize(
    ("entry", "path", "dtype"),
    [
        ("a=/mnt/a", "/mnt/a", None),
        ("a=/mnt/a:float16", "/mnt/a", "float16"),
        ("a=C:/a:b", "C:/a:b", None),
        ("a=/mnt/a:float64", "/mnt/a:float64", None),
        ("a=/mnt/float16:float32", "/mnt/float16", "float32"),
        ("a=/mnt/x=y, z", "/mnt/x=y, z", None),
        ("a=:float16", ":float16", None),
        ("a=~/a", str(Path.home() / "a"), None),
    ],
)
def test_a_folder_is_named_by_name_and_path_and_a_known_dtype(
    entry: str, path: str, dtype: str | None
) -> None:
    for settings in (load_settings({"HEED_MODEL": entry}, {}), load_settings({}, {"model": [entry]})):
        assert settings.model == (NamedFolder("a", Path(path), dtype),)
        assert settings.named == {"a"}


def test_several_folders_are_named_with_commas_or_again() -> None:
    for settings in (
        load_settings({"HEED_MODEL": "a=/x, b=/y,z:bfloat16,c=/z"}, {}),
        load_settings({"HEED_MODEL": "other=/o"}, {"model": ["a=/x,b=/y,z:bfloat16", "c=/z"]}),
    ):
        assert [(one.name, str(one.path), one.dtype) for one in settings.model] == [
            ("a", "/x", None),
            ("b", "/y,z", "bfloat16"),
            ("c", "/z", None),
        ]
    assert load_settings({"HEED_MODEL": " "}, {}).model == ()


def test_default_model_is_a_name_and_is_awaited_as_those_that_are_served() -> None:
    assert load_settings({"HEED_DEFAULT_MODEL": ""}, {}).default_model is None
    settings = load_settings({"HEED_DEFAULT_MODEL": "b", "HEED_MODEL": "a=/x"}, {})
    assert settings.named == {"a", "b"}
    for wrong in (".b", "a/b", "b:float16", "b,c", "b" * 129):
        assert "HEED_DEFAULT_MODEL" in refused({"HEED_DEFAULT_MODEL": wrong})
    environ = {"HEED_DEFAULT_MODEL": "b", "HEED_MODELS": "a,c"}
    assert load_settings({**environ, "HEED_MODEL": "b=/x"}, {}).default_model == "b"
    assert load_settings({**environ, "HEED_ALLOW_EMPTY": "true"}, {}).default_model == "b"


@pytest.mark.parametrize(
    "entry", ["/mnt/a", "a", "a=", "=/mnt/a", "../a=/mnt", ".a=/mnt", "a/b=/mnt", "a b=/mnt", "a=/x,a=/y"]
)
def test_a_folder_that_is_named_wrongly_is_refused(entry: str) -> None:
    assert "HEED_MODEL" in refused({"HEED_MODEL": entry})


def test_the_repository_is_read_where_it_is_named_or_nothing_else_is() -> None:
    def repository(**environ: str) -> Path | None:
        return load_settings({PREFIX + name: value for name, value in environ.items()}, {}).repository

    assert (
        repository() == repository(MODELS="a") == repository(MODELS="a,b", MODEL="a=/x") == Path("repository")
    )
    assert repository(MODEL="a=/x") is repository(MODEL="a=/x", MODELS="a:float16") is None
    assert repository(MODEL="a=/x", MODEL_REPOSITORY="models") == Path("models")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "1e3"),
        ("PORT", "9" * 5000),
        ("MAX_BODY_BYTES", "1023"),
        ("MAX_BODY_BYTES", str(2**70)),
        ("MAX_BATCH_TOKENS", "0"),
        ("DEADLINE_MS", "0"),
        ("DRAIN_SECONDS", "3601"),
        ("DEVICE", "gpu"),
        ("DEVICE", "cuda:x"),
        ("DTYPE", "float64"),
        ("LOG_LEVEL", "loud"),
        ("ADMIN", "perhaps"),
        ("MODELS", "../etc"),
        ("MODELS", "a,,b"),
        ("MODELS", "a,a"),
        ("OTLP_ENDPOINT", "localhost:4317"),
        ("OTLP_ENDPOINT", ""),
    ],
)
def test_value_out_of_range_is_refused_and_named(name: str, value: str) -> None:
    problem = refused({PREFIX + name: value})
    assert name in problem
    assert len(problem) < 500


@pytest.mark.parametrize(
    "keys", ["secret,", ",secret", "secret,,other", " ", "with space", "ünïcode", "a\nb"]
)
def test_bad_api_keys_are_refused_without_being_repeated(keys: str) -> None:
    problem = refused({"HEED_API_KEYS": keys})
    assert "HEED_API_KEYS" in problem
    assert "secret" not in problem
    assert "ünïcode" not in problem


def test_keys_are_not_shown_by_the_settings_themselves() -> None:
    settings = load_settings({"HEED_API_KEYS": "hush"}, {})
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"MAX_QUEUED_TOKENS": "1000"}, ("MAX_QUEUED_TOKENS", "MAX_SEQUENCE_TOKENS")),
        (
            {"MAX_QUEUED_TOKENS": "40000", "MAX_BATCH_TOKENS": "50000"},
            ("MAX_QUEUED_TOKENS", "MAX_BATCH_TOKENS"),
        ),
        ({"MODEL": "a=/x:float16", "MODELS": "a:float32"}, ("MODEL ", "MODELS", "float16", "float32")),
        ({"DEFAULT_MODEL": "b", "MODELS": "a"}, ("DEFAULT_MODEL is b", "MODELS")),
        ({"MAX_BATCH_SCORES": "100"}, ("MAX_BATCH_SCORES", "MAX_BATCH_TOKENS")),
        ({"MAX_WAIT_MS": "50", "DEADLINE_MS": "50"}, ("MAX_WAIT_MS", "DEADLINE_MS")),
        (
            {"HEALTH_ROUTE": "/mine", "PREDICT_ROUTE": "/mine/"},
            ("HEALTH_ROUTE and PREDICT_ROUTE", "are both /mine,", "leave one out"),
        ),
    ],
)
def test_contradictions_are_refused_naming_both(environ: dict[str, str], names: tuple[str, ...]) -> None:
    problem = refused({PREFIX + name: value for name, value in environ.items()})
    assert all(name in problem for name in names)


def test_every_problem_is_reported_at_once() -> None:
    problem = refused({"HEED_PORT": "x", "HEED_DTYPE": "y"})
    assert "HEED_PORT" in problem
    assert "HEED_DTYPE" in problem


def test_unknown_names_bad_values_and_contradictions_of_the_others_are_all_told() -> None:
    wrong = {"FOO": "1", "PORT": "x", "MAX_BATCH_TOKENS": "y", "MAX_WAIT_MS": "500", "DEADLINE_MS": "100"}
    wrong |= {"MAX_QUEUED_TOKENS": "10", "MAX_BATCH_SCORES": "5"}
    with pytest.raises(SettingsError) as error:
        load_settings({PREFIX + name: value for name, value in wrong.items()}, {})
    told = [problem.split(" is ")[0].split(":")[0] for problem in error.value.problems]
    assert told == [
        "'HEED_FOO'",
        "HEED_PORT",
        "HEED_MAX_BATCH_TOKENS",
        "MAX_QUEUED_TOKENS 10",  # under MAX_SEQUENCE_TOKENS; nothing is held against a value that is not read
        "MAX_WAIT_MS 500",
    ]


def test_name_that_is_near_none_is_not_said_to_be() -> None:
    assert "nearest" not in refused({"HEED_FOO": "1"})


def test_every_integer_has_both_bounds() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is int:
            bounds = {type(bound).__name__ for bound in field.metadata}
            assert bounds == {"Ge", "Le"}, name


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


VERTEX = {
    "AIP_HTTP_PORT": "8080",
    "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
    "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
}


def test_what_vertex_says_of_port_and_paths_counts_where_no_setting_does() -> None:
    settings = load_settings(VERTEX, {})
    assert settings.port == 8080
    assert settings.health_route == VERTEX["AIP_HEALTH_ROUTE"]
    assert settings.predict_route == VERTEX["AIP_PREDICT_ROUTE"]
    ours = {"HEED_PORT": "9000", "HEED_PREDICT_ROUTE": "/predict"}
    settings = load_settings(VERTEX | ours, {"health_route": "/alive"})
    assert (settings.port, settings.health_route, settings.predict_route) == (9000, "/alive", "/predict")
    assert load_settings(VERTEX, {"port": "9001"}).port == 9001
    assert load_settings(dict.fromkeys(VERTEX, ""), {}).port == 8000
    assert load_settings({"SAGEMAKER_BIND_TO_PORT": "8081"}, {}).port == 8081


def test_what_a_platform_says_wrongly_is_told_by_its_own_name() -> None:
    assert refused({"AIP_HTTP_PORT": "http"}).startswith("AIP_HTTP_PORT is 'http': ")
    assert refused({"AIP_PREDICT_ROUTE": "predict"}).startswith("AIP_PREDICT_ROUTE is 'predict': a path")
    assert refused({"HEED_PORT": "http", "AIP_HTTP_PORT": "80"}).startswith("HEED_PORT is 'http': ")
    same = refused({"AIP_HEALTH_ROUTE": "/v1/mine", "HEED_PREDICT_ROUTE": "/v1/mine"})
    assert "AIP_HEALTH_ROUTE" in same
    assert "both /v1/mine" in same


def test_artifacts_that_nobody_fetches_refuse_to_start_unless_their_folder_is_named() -> None:
    place = {"AIP_STORAGE_URI": "gs://bucket/model"}
    assert "this server fetches nothing" in refused(place)
    assert "HEED_MODEL" in refused(place | {"HEED_MODEL_REPOSITORY": "/models"})
    assert load_settings(place | {"HEED_MODEL": "mine=/models/mine"}, {}).named == {"mine"}
    assert load_settings({"AIP_STORAGE_URI": ""}, {}).model == ()


def looks(folder: Path, *, comes_after: int, seconds: float = 10.0, **environ: str) -> int:
    """Return how often a folder is looked at that is there after so many looks; each moves the clock."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == comes_after:
            folder.mkdir()

    await_folders(
        [NamedFolder("mine", folder)], environ, seconds=seconds, sleep=sleep, clock=lambda: sum(slept)
    )
    return len(slept)


def test_folders_that_may_come_late_are_waited_for(tmp_path: Path) -> None:
    assert looks(tmp_path / "late", comes_after=3, MODEL_INIT_MODE="async") == 3
    assert looks(tmp_path / "late", comes_after=0, MODEL_INIT_MODE="async") == 0
    assert looks(tmp_path / "never", comes_after=-1, seconds=2.05, MODEL_INIT_MODE="async") == 21
    assert looks(tmp_path / "never", comes_after=-1) == 0
    assert looks(tmp_path / "never", comes_after=-1, MODEL_INIT_MODE="sync") == 0
