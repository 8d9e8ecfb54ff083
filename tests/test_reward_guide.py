"""docs/reward.md: its commands and its code run as they stand, on a tiny setting."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "reward.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
PYTHON = [
    code
    for comment, code in re.findall(r"(<!--.*?-->\n)?```python\n(.*?)```", GUIDE, re.DOTALL)
    if not comment
]
SMALL = {
    "run": (
        "predictor.num-layers=1 predictor.width=16 predictor.num-heads=2 "
        "predictor.feedforward-width=16 predictor.embedder-depth=2 train.num-rounds=2 "
        "train.local-steps=2 evaluation.every=1"
    ),
    "export": "",
    "align": (
        "align.targets=min train.steps=2 train.prompts=2 train.generations=2 policy.width=16 "
        "policy.heads=2 policy.layers=1 policy.warm-up-steps=2 questions.most-train=40 "
        "questions.most-held-out=40"
    ),
}
"""What is added to each command."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder in which the guide's commands were given."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copytree(ROOT / "conf", folder / "conf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert COMMANDS is not None
        lines = [line for line in COMMANDS[1].splitlines() if line.startswith("pluralllm ")]
        assert [line.split()[1] for line in lines] == list(SMALL)
        for line in lines:
            words = shlex.split(line)[1:]
            given = CliRunner().invoke(app, [*words, *SMALL[words[0]].split()])
            assert given.exit_code == 0, given.output
    return folder


def test_the_commands_leave_a_reward_model_and_an_aligned_one(workplace: Path) -> None:
    for file in ("model.safetensors", "config.json", "README.md", "contexts.jsonl", "reward.json"):
        assert (workplace / "reward" / file).is_file()
    assert (workplace / "aligned" / "metrics.json").is_file()


def test_the_code_runs_from_top_to_bottom(workplace: Path, monkeypatch) -> None:
    monkeypatch.chdir(workplace)
    assert len(PYTHON) == 3
    names: dict[str, object] = {}
    for code in PYTHON:
        exec(code, names)
    reward, prompts, responses = (names[name] for name in ("reward", "prompts", "responses"))
    scores = reward.scores(prompts, responses, against=["Safety and security"] * 2)
    assert scores.shape == (2, len(reward.groups)) == (2, 20)
    own = reward.score(
        prompts, responses, group="Southern nurses", against=["Safety and security"] * 2
    )
    column = reward.groups.index("Southern nurses")
    torch.testing.assert_close(own, scores[:, column], rtol=1e-4, atol=1e-5)
