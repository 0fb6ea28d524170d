"""docs/recipes.md is what the presets and the kept runs say today, and differences are taken seed by seed."""

import importlib.util
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ablate():
    spec = importlib.util.spec_from_file_location("ablate", ROOT / "benchmarks" / "ablate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(ablate):
    assert (ROOT / "docs" / "recipes.md").read_text() == ablate.recipes()


def test_a_difference_is_the_mean_over_seeds_with_students_interval(ablate):
    mean, half = ablate.difference({0: 1.0, 1: 2.0, 2: 3.5, 9: 0.0}, {0: 2.0, 1: 2.5, 2: 4.0})
    assert mean == pytest.approx(-2 / 3)
    assert half == pytest.approx(4.303 * 0.28867513 / math.sqrt(3))
    assert ablate.difference({0: 1.0}, {0: 2.0}) == (-1.0, math.inf)
