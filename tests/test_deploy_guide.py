"""docs/deploy.md is true: its commands, settings, metrics, events and tables are the code's."""

import json
import re
from dataclasses import fields
from typing import Any

import pytest
import yaml

from server_app.causes import CAUSES
from server_app.prometheus import Prometheus
from task.config import LogConfig, RunConfig
from task.node_config import NodeConfig
from tests.docker.commands import ROOT, pluralllm_commands, require_command, shell_blocks
from tests.server_app.test_prometheus import METRICS, free_port, scrape

GUIDE = ROOT / "docs" / "deploy.md"
TEXT = GUIDE.read_text()


@pytest.mark.parametrize(
    "call", pluralllm_commands(shell_blocks(GUIDE)), ids=lambda call: " ".join(call)[:70]
)
def test_commands_settings_and_options_exist(call: list[str]) -> None:
    require_command(call)


def test_settings_in_the_text_exist() -> None:
    sections = {key.split(".")[0] for key in RunConfig().to_flat()}
    named = set(re.findall(r"`([a-z]+\.[a-z-]+)(?:=[^`]*)?`", TEXT))
    settings = {name for name in named if name.split(".")[0] in sections}
    files = {"run.toml"}
    assert settings - files <= set(RunConfig().to_flat())
    assert len(settings) > 10


def test_the_table_of_the_node_config_is_the_codes() -> None:
    for item in fields(NodeConfig):
        text = item.metadata["help"].replace("|", r"\|")
        row = f"| `{item.name.replace('_', '-')}` | `{json.dumps(item.default)}` | {text} |"
        assert row in TEXT


@pytest.fixture
def served() -> dict[str, set[str]]:
    """Names of all metrics, with their labels, once everything has been logged."""
    log = LogConfig(prometheus_port=free_port())
    sink = Prometheus(log, RunConfig().to_flat())
    promise = {"unit": "client", "epsilon": 1.0, "delta": 1e-5}
    try:
        sink.log(METRICS | {"evaluation_failures": {}, "privacy": promise}, 1)
        samples = scrape(log)
    finally:
        sink.close()
    return {name: {key for key, _ in labels} for name, labels in samples}


def test_the_table_of_metrics_is_complete(served: dict[str, set[str]]) -> None:
    table = TEXT[TEXT.index("| metric | type |") : TEXT.index("scrape_configs")]
    named = dict(re.findall(r"`(pluralllm_\w+)(?:\{([^}]*)\})?`", table))
    shown = {name: set(labels.split(", ")) - {""} for name, labels in named.items()}
    histogram = {f"pluralllm_round_seconds_{part}" for part in ("sum", "count", "bucket")}
    assert histogram <= set(served)
    plain = {name: labels for name, labels in served.items() if name not in histogram}
    assert shown == plain | {"pluralllm_round_seconds": set()}
    assert all(cause in table for cause in CAUSES)


def test_alerts_ask_for_metrics_and_labels_that_exist(served: dict[str, set[str]]) -> None:
    blocks: list[Any] = [
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    ]
    (rules,) = [block["groups"][0]["rules"] for block in blocks if "groups" in block]
    assert len(rules) == 3
    for rule in rules:
        names = set(re.findall(r"pluralllm_\w+", rule["expr"]))
        assert names <= set(served)
        labels = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert all(labels <= served[name] for name in names)


def test_the_list_of_events_is_complete() -> None:
    listed = TEXT[TEXT.index("\nEvents: ") : TEXT.index("They name clients")]
    said: set[str] = set()
    for file in sorted((ROOT / "server_app").rglob("*.py")):
        for call in re.findall(r"announce\(\s*(\"[^,]+),", file.read_text()):
            said |= set(re.findall(r"\"([a-z-]+)\"", call))
    assert said == set(re.findall(r"`([a-z-]+)`", listed))


def test_every_file_and_heading_that_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, heading = link.partition("#")
        file = (GUIDE.parent / path).resolve() if path else GUIDE
        assert file.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {
                re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in titles
            }
            assert heading in anchors, link


def test_the_guide_names_no_machine() -> None:
    assert not re.search(r"/work/|/tmp/\w", TEXT)
