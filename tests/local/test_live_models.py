from pathlib import Path
from weakref import ref

from model_directories import write_model

from tinker_actors.local.live_models import base_model


def test_a_base_model_is_shared_while_it_is_in_use_and_let_go_when_others_come(tmp_path: Path) -> None:
    a, b, c, d = (str(tmp_path / name) for name in "abcd")
    for directory in (a, b, c, d):
        write_model(Path(directory))
    used, unused = base_model(a), ref(base_model(b))
    assert unused() is not None
    for directory in (c, d):
        base_model(directory)
    assert base_model(a) is used
    assert unused() is None
