"""Settings in a host's file: their names and values are checked before anything is started."""

import pytest

from service.environment import load_settings
from service.replicas.options import HOSTS, options_of
from service.settings import Settings, SettingsError


def test_settings_have_their_names_in_either_case_and_lists_for_commas():
    args = {"models": ["minilm", "e5:int8"], "MAX_BODY_BYTES": 4096, "truncate": True}
    options = options_of(args)
    assert options == {"models": "minilm,e5:int8", "max_body_bytes": 4096, "truncate": True}
    settings = load_settings({"HEED_MAX_BODY_BYTES": "1024", "HEED_DEVICE": "cpu"}, options)
    assert (settings.models, settings.max_body_bytes) == (("minilm", "e5:int8"), 4096)
    assert (settings.truncate, settings.device) == (True, "cpu")


def test_every_wrong_name_is_told_at_once_with_the_remedy():
    with pytest.raises(SettingsError) as refused:
        options_of({"max_body": 4096, "http_workers": 4, "PORT": 80, "models": "minilm"})
    near, workers, port = refused.value.problems
    assert near == "'max_body' is not a setting; the nearest is max_body_bytes"
    assert workers.startswith("http_workers is not a replica's")
    assert "number of replicas" in workers
    assert port.startswith("PORT is not a replica's")


def test_what_the_host_does_are_settings_of_ours():
    assert HOSTS.keys() < Settings.model_fields.keys()
