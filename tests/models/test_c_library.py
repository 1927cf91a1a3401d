"""What crosses into C is the same on both sides, or the library is not called."""

import importlib.util
from ctypes import CDLL, Structure, c_char, c_float, c_int32, c_void_p

import pytest

from models.c_library import difference, fields
from models.compiled import structures as ours
from service.wire.compiled import structures as wire

ROOMS = {"models.compiled._native": ours, "service.wire.compiled._native": wire}


def library(name: str) -> CDLL:
    found = importlib.util.find_spec(name)
    if found is None:
        pytest.skip("Heed was installed without a C compiler")
    return CDLL(found.origin)


@pytest.mark.parametrize("name", ROOMS)
def test_both_sides_agree_on_every_field_and_number(name: str) -> None:
    assert difference(library(name), ROOMS[name].STRUCTURES, ROOMS[name].NUMBERS) is None


@pytest.mark.parametrize("name", ROOMS)
def test_every_structure_is_compared(name: str) -> None:
    declared = {
        one
        for one in vars(ROOMS[name]).values()
        if isinstance(one, type) and issubclass(one, Structure) and one is not Structure
    }
    assert declared == set(ROOMS[name].STRUCTURES.values())


@pytest.mark.parametrize(
    ("norm", "told"),
    [
        ((*fields(c_void_p, "bias weight"), ("eps", c_float), ("kind", c_int32)), "bias weight"),
        ((*fields(c_void_p, "weight bias"), ("eps", c_float), ("sort", c_int32)), "sort kind"),
        ((*fields(c_void_p, "weight bias"), ("eps", c_float), ("kind", c_char)), "kind"),
        (fields(c_void_p, "weight bias"), "eps kind"),
    ],
    ids=["elsewhere", "another name", "another size", "missing"],
)
def test_fields_that_differ_are_told(norm, told: str) -> None:
    other = type("Norm", (Structure,), {"_fields_": norm})
    found = difference(library("models.compiled._native"), ours.STRUCTURES | {"norm": other}, ours.NUMBERS)
    assert found is not None
    assert set(found.split(", ")) == {f"norm.{name}" for name in told.split()}


def test_numbers_that_differ_are_told() -> None:
    numbers = {name: number for name, number in ours.NUMBERS.items() if name != "SILU"} | {"GELU": 2}
    found = difference(library("models.compiled._native"), ours.STRUCTURES, numbers)
    assert found == "number.GELU, number.SILU"


def test_a_name_that_is_no_field_is_refused() -> None:
    for one in (*ours.STRUCTURES.values(), *wire.STRUCTURES.values()):
        with pytest.raises(AttributeError):
            one().no_field = 3
