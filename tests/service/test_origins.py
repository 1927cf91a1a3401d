import pytest

from service.app import create_app
from service.environment import load_settings
from service.http.browsers.origins import EVERYONE, OUR_FIRST, read_ancestors, read_origins, read_prefix
from service.settings import Settings, SettingsError
from tests.fakes import FakeRuntime


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", ()),
        ("  ", ()),
        ("*", (EVERYONE,)),
        ("https://a.example", ("https://a.example",)),
        ("HTTPS://A.Example:443 , http://localhost:3000", ("https://a.example", "http://localhost:3000")),
        ("http://a.example:80,http://a.example:443", ("http://a.example", "http://a.example:443")),
        ("http://[::1]:8000", ("http://[::1]:8000",)),
        ("https://*.hf.space", ("https://*.hf.space",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
    ],
)
def test_origins_are_read_as_browsers_send_them(given: str, read: tuple[str, ...]) -> None:
    assert read_origins(given) == read


@pytest.mark.parametrize(
    "given",
    [
        "example.com",
        "https://example.com/",
        "https://example.com/app",
        "https://*",
        "https://a.*.example",
        "https://a..example",
        "https://user@example.com",
        "https://example.com:port",
        "https://bücher.example",
        "https://a.example; script-src *",
        "https://a.example\r\nx: y",
        "https://a.example,,https://b.example",
        "*,https://a.example",
        "null",
    ],
)
@pytest.mark.parametrize("setting", ["CORS_ORIGINS", "FRAME_ANCESTORS"])
def test_what_is_no_origin_refuses_to_start_with_the_remedy(setting: str, given: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({f"HEED_{setting}": given}, {})
    (problem,) = refused.value.problems
    assert problem.startswith(f"HEED_{setting} is ")
    assert "https://app.example.com" in problem or "give it alone" in problem


def test_self_is_this_servers_own_origin_to_frames_alone() -> None:
    assert read_ancestors("self, https://huggingface.co") == ("'self'", "https://huggingface.co")
    assert read_ancestors("'self'") == ("'self'",)
    assert read_ancestors("") == ()
    with pytest.raises(ValueError, match="an origin is"):
        read_origins("self")


@pytest.mark.parametrize(
    ("given", "read"), [("", None), ("/", None), ("/heed/", "/heed"), ("/a/b-c.d", "/a/b-c.d")]
)
def test_a_prefix_has_no_slash_at_its_end(given: str, read: str | None) -> None:
    assert read_prefix(given) == read


@pytest.mark.parametrize(
    "given", ["heed", "//heed", "/a//b", "/a?b", "/a%20b", "/a b", "/..", "/a/./b", "/v1", "/web/x"]
)
def test_what_is_no_prefix_refuses_to_start(given: str) -> None:
    with pytest.raises(SettingsError, match="HEED_ROOT_PATH"):
        load_settings({"HEED_ROOT_PATH": given}, {})


def test_no_route_of_ours_can_be_taken_for_a_prefix() -> None:
    app = create_app(Settings(), FakeRuntime())
    first = {path.split("/")[1] for path in app.openapi()["paths"]} - {""}
    assert first <= set(OUR_FIRST)
