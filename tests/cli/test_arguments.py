"""Command lines out of dataclasses, and the dispatch to subcommands."""

from dataclasses import dataclass, field

import pytest
import torch

from llm_mde.cli import COMMANDS, main
from llm_mde.cli.arguments import parse_arguments


@dataclass
class Recipe:
    rate: float = 1e-3
    steps: int = 10
    flip: bool = False
    layers: list[int] = field(default_factory=list)


def parse(*arguments):
    (recipe,) = parse_arguments("bake", [Recipe], arguments, "Bakes.")
    return recipe


def test_flags_fill_the_dataclass():
    assert parse("--rate", "0.5", "--flip", "--layers", "1", "2") == Recipe(rate=0.5, flip=True, layers=[1, 2])


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_flags_replace_the_values_of_a_file(name, tmp_path):
    text = {
        "recipe.yaml": "rate: 5.0e-1\nsteps: 3\nflip: true\nlayers: [1, 2]\n",
        "recipe.json": '{"rate": 0.5, "steps": 3, "flip": true, "layers": [1, 2]}',
    }
    (tmp_path / name).write_text(text[name])
    assert parse(str(tmp_path / name), "--steps", "7") == Recipe(rate=0.5, steps=7, flip=True, layers=[1, 2])


@pytest.mark.parametrize(
    ("text", "message"), [("rte: 1", "`rte`"), ("- 1", "holds list"), ("{", "cannot be read"), (None, "not a file")]
)
def test_a_wrong_file_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse(str(path))


def test_an_unknown_command_ends_in_one_line_that_lists_the_others(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["trian"])
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err
    assert "'trian'" in printed
    assert all(command in printed for command in COMMANDS)


class OfAModule(ValueError):
    """Tracebacks have it with the name of its module in front."""


class Unreadable(torch.utils.data.Dataset):
    def __init__(self, kind: type[Exception]):
        self.kind = kind

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise ValueError("the cause")
        except ValueError as error:
            raise self.kind("`images` contains 'a.jpg';\nopen a whole file.") from error


@pytest.mark.parametrize("kind", [ValueError, OSError, OfAModule])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_worker_is_one_line_without_its_traceback(num_workers, kind, capsys, monkeypatch):
    loader = torch.utils.data.DataLoader(Unreadable(kind), num_workers=num_workers)
    monkeypatch.setattr("llm_mde.cli.env.run", lambda arguments: next(iter(loader)))
    with pytest.raises(SystemExit) as exit_info:
        main(["env"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "llm-mde env: `images` contains 'a.jpg'; open a whole file.\n"


def test_no_command_at_all_shows_what_there_is(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["llm-mde"])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2
    assert "usage: llm-mde COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    assert f"usage: llm-mde {command}" in capsys.readouterr().out
