"""The one mechanism that checks arguments of public functions."""

import numpy as np
import pytest
import torch

from pyro_vble._arguments import Count, Flag, Named, NotNegative, Number, PathName, Positive, Probability, Seed, checked


@checked
def function(
    first,
    count: Count = 1,
    *,
    probability: Probability = 0.5,
    seed: Seed | None = None,
    flag: Flag = True,
    number: Number = 0.0,
    positive: Positive = 1.0,
    not_negative: NotNegative = 0.0,
    path: PathName = "a",
    named: Named | None = None,
    tensor: torch.Tensor | None = None,
):
    """Return the arguments."""
    return locals()


class Hostile:
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 0),
        ("count", 1.5),
        ("count", -(10**30)),
        ("probability", 1.0001),
        ("probability", float("nan")),
        ("seed", 2**70),
        ("number", float("inf")),
        ("positive", 0),
        ("not_negative", -1e-9),
        ("path", ""),
        ("path", "a\0b"),
    ],
)
def test_a_wrong_value_is_a_value_error_with_name_rule_and_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*; received .*\.$"):
        function(0, **{name: value})


@pytest.mark.parametrize(
    "name", ["count", "probability", "seed", "flag", "number", "positive", "not_negative", "path", "named", "tensor"]
)
@pytest.mark.parametrize("value", ["x" * 900, object(), [1], 1j, torch.zeros(2, 3), np.zeros(4), b"a", Hostile(), len])
def test_a_wrong_type_is_a_type_error_of_one_short_line(name, value):
    if (name == "path" and isinstance(value, str)) or (name == "tensor" and isinstance(value, torch.Tensor)):
        return
    with pytest.raises(TypeError, match=rf"^{name} must be ") as caught:
        function(0, **{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_what_passes_is_python_s_own():
    found = function(Hostile, np.int64(3), probability=np.float32(0.5), seed=np.uint64(2**63), flag=np.bool_(False))
    assert found["first"] is Hostile
    assert (found["count"], type(found["count"])) == (3, int)
    assert (found["seed"], type(found["seed"])) == (2**63, int)
    assert found["flag"] is False


def test_true_is_no_number():
    with pytest.raises(TypeError, match="count must be a whole number"):
        function(0, True)


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((0,), {"nonsense": 1}), ((0, 1, 2), {})])
def test_missing_and_unknown_arguments_are_named_with_those_that_exist(args, kwargs):
    with pytest.raises(TypeError, match=r"its arguments are first, count, probability"):
        function(*args, **kwargs)


def test_errors_of_the_function_itself_pass_unchanged():
    @checked
    def fails(count: Count):
        raise KeyError(count)

    with pytest.raises(KeyError):
        fails(1)
