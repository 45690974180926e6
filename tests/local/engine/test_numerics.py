import numpy as np
import pytest

from tinker_actors.local.engine.numerics import numerics


def test_what_bits_depend_on_is_named() -> None:
    words = numerics(3)
    assert f"numpy {np.__version__} with " in words
    assert "3 BLAS threads" in words
    assert words == numerics(3)


@pytest.mark.parametrize(
    "change",
    [
        {"Build Dependencies": {"blas": {"name": "mkl", "version": "1"}}},
        {"Build Dependencies": {"blas": {"name": "scipy-openblas", "version": "0.0.1"}}},
        {"SIMD Extensions": {"found": ["SSE9"]}},
        {"SIMD Extensions": {}, "Build Dependencies": {}},
    ],
)
def test_another_blas_or_processor_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    before = numerics(1)
    found = {**np.show_config(mode="dicts"), **change}
    monkeypatch.setattr(np, "show_config", lambda mode: {"dicts": found}[mode])
    assert numerics(1) != before
