"""A changed configuration agrees with eager or is refused; `configurations.py` tries thousands of them."""

import json
import logging
import random
from pathlib import Path

import pytest
import torch
import transformers

from models.errors import SpecError
from models.folders.huggingface.known import IDLE
from models.folders.huggingface.translate import FAMILIES, translate
from tests.models.configurations import Base, Count, configurations, judge, quiet
from tests.native_families import CASES

SINGLE, PAIRED = 20, 8  # changes tried of each family's some six hundred, and pairs of them


@pytest.fixture(autouse=True)
def one_quiet_thread():
    threads = torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("models", "transformers")]
    levels = [logger.level for logger in loggers]
    quiet()
    yield
    torch.set_num_threads(threads)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.filterwarnings("ignore")  # of transformers, about folders as odd as these
@pytest.mark.parametrize("name", CASES)
def test_a_changed_configuration_agrees_with_eager_or_is_refused(name, tmp_path):
    base, chance, count = Base.saved(name, tmp_path), random.Random(name), Count()
    changed = list(configurations(base, pairs=PAIRED, chance=chance))
    for changes in chance.sample(changed[:-PAIRED], SINGLE) + changed[-PAIRED:]:
        outcome, why = judge(base, changes)
        count.add(outcome, f"{changes}: {why}")
    assert count.wrong == []
    assert count.outcomes["agreed natively"] > SINGLE / 3
    assert count.outcomes["refused"] + count.outcomes["agreed by transformers"] > 1


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field_that_transformers_writes_is_known(name):
    config = transformers.CONFIG_MAPPING[name]()
    spec, _ = translate(json.loads(config.to_json_string(use_diff=False)))
    assert spec.layers == config.num_hidden_layers


@pytest.mark.parametrize("name", FAMILIES)
def test_a_field_that_nobody_has_looked_up_is_refused_by_name(name):
    config = transformers.CONFIG_MAPPING[name]().to_dict()
    with pytest.raises(SpecError, match=r"config.json has 'another', 'some_field'; what that changes in a"):
        translate(config | {"some_field": 1, "another": None})


def test_many_unknown_fields_make_no_long_message():
    config = transformers.CONFIG_MAPPING["bert"]().to_dict()
    with pytest.raises(SpecError, match="and 995 more") as refused:
        translate(config | {f"field_{number:03}": 1 for number in range(1000)})
    assert len(str(refused.value)) < 300


def test_no_field_is_both_idle_and_read():
    read = {"is_causal", "is_decoder", "position_embedding_type", "rope_theta", "sliding_window", "head_dim"}
    assert read.isdisjoint(IDLE)


def test_every_idle_field_is_among_the_changes(tmp_path: Path):
    base = Base.saved("bert", tmp_path)
    changed = {name for name, _ in base.changes()}
    assert set(IDLE) - {"model_type", "transformers_version"} <= changed
