"""The page on faults says what plans can say, and its example is one."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from tinker_actors.local.faults.plan import Effect, Fault, read_plan
from tinker_actors.local.step_log import KEPT

ROOT, PLACE = Path(__file__).parents[2], "tinker_actors/local/faults/README.md"
PAGE = (ROOT / PLACE).read_text()


def test_its_example_is_a_plan() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(read_plan(tomllib.loads(example)).faults) == 3


@pytest.mark.parametrize("effect", get_args(Effect))
def test_every_effect_stands_in_a_table(effect: str) -> None:
    assert f"\n| `{effect}` |" in PAGE


@pytest.mark.parametrize("field", Fault.__struct_fields__)
def test_every_field_is_explained(field: str) -> None:
    assert re.search(rf"`{field}\b", PAGE)


def test_it_names_what_is_kept_of_the_log() -> None:
    for kept in KEPT.values():
        assert f"{kept:,}" in PAGE


def test_the_readme_leads_to_it() -> None:
    assert f"({PLACE})" in (ROOT / "README.md").read_text()
