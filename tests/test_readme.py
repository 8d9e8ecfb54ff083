"""The README is true: its test command is CI's, its config table is the code's."""

from pathlib import Path

from cli.settings import config_table

ROOT = Path(__file__).parent.parent


def test_ci_runs_the_readmes_test_command() -> None:
    command = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    blocks = (ROOT / "README.md").read_text().split("```")
    assert any(command in block for block in blocks[1::2])


def test_the_config_table_is_the_codes() -> None:
    assert config_table() in (ROOT / "README.md").read_text()


def test_every_file_that_the_readme_links_exists() -> None:
    text = (ROOT / "README.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [link.split("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
