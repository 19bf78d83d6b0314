"""``[run]`` of a ``model.toml``: two values change, and nothing else that somebody wrote."""

from pathlib import Path

import pytest

from osteon.errors import ModelError
from osteon.pipeline.models.modelspec import read_spec
from osteon.pipeline.models.runsection import with_run, write_run
from tests.model_folders import make

BEST = {"precision": "bfloat16", "channels_last": True}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            'a = 1\n[run]  # how\noverlap = 0.5\nprecision = "float32"  # or else\n\n[output]\n',
            'a = 1\n[run]  # how\noverlap = 0.5\nprecision = "bfloat16"  # or else\n'
            "channels_last = true\n\n[output]\n",
        ),
        (  # Without a section there is one at the end.
            "a = 1\n[[output.segments]]\nprecision = 3\n",
            "a = 1\n[[output.segments]]\nprecision = 3\n"
            '\n[run]\nprecision = "bfloat16"\nchannels_last = true\n',
        ),
        (
            "[run]\nchannels_last=false\nprecision='float16'\n",
            '[run]\nchannels_last = true\nprecision = "bfloat16"\n',
        ),
        ("[run]\n", '[run]\nprecision = "bfloat16"\nchannels_last = true\n'),
    ],
)
def test_two_lines_change(before: str, after: str) -> None:
    assert with_run(before, BEST) == after
    assert with_run(after, BEST) == after


def test_a_folder_is_changed_in_its_run_alone(tmp_path: Path) -> None:
    folder = make("torchscript", tmp_path).folder
    before, weights = read_spec(folder), (folder / "network.ts").read_bytes()
    write_run(folder, BEST)
    after = read_spec(folder)
    assert (after.run.precision, after.run.channels_last) == ("bfloat16", True)
    assert after.model_copy(update={"run": before.run}) == before
    assert (folder / "network.ts").read_bytes() == weights
    assert sorted(path.name for path in folder.iterdir()) == ["model.toml", "network.ts"]


@pytest.mark.parametrize("run", ["run = { overlap = 0.25 }", 'run.precision = "float32"'])
def test_what_stands_elsewhere_is_left_to_whoever_wrote_it(run: str, tmp_path: Path) -> None:
    path = make("torchscript", tmp_path).folder / "model.toml"
    text = f"{run}\n{path.read_text().lstrip()}"
    path.write_text(text)
    with pytest.raises(ModelError, match='write there yourself: precision = "bfloat16"; chan'):
        write_run(path.parent, BEST)
    assert path.read_text() == text
