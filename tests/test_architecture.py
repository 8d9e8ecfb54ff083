import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "task",
    "client_app",
    "server_app",
    "comparison",
    "report",
    "deployment",
    "alignment",
    "cli",
)
MAY_IMPORT = {
    "task": {"task"},
    "client_app": {"task", "client_app"},
    "server_app": {"task", "server_app"},
    "comparison": {"task", "server_app", "comparison"},
    "report": {"task", "server_app", "comparison", "report"},
    "deployment": {"task", "deployment"},
    "alignment": {"task", "alignment"},
    "cli": set(PACKAGES),
}
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]

every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


def imported_packages(tree):
    """Top-level packages of all imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module.split(".")[0]


def test_every_package_has_files():
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)


@every_file
def test_imports_point_inwards_only(file):
    package = file.relative_to(ROOT).parts[0]
    imported = set(imported_packages(ast.parse(file.read_text())))
    assert imported & set(PACKAGES) <= MAY_IMPORT[package]
    assert "tests" not in imported
    if package in ("task", "alignment"):
        assert "flwr" not in imported


@every_file
def test_no_text_is_run_as_code(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, f"line {node.lineno}"


@every_file
def test_files_are_short(file):
    if file != ROOT / "task" / "config.py":  # one setting after another, with its help text
        assert len(file.read_text().splitlines()) < 300


SOURCES = "task/sources/"
RAW_READERS = {
    "_read_survey": (SOURCES,),
    "_private_survey": (SOURCES,),
    "SOURCES": (SOURCES, "task/config.py"),  # the latter: their names
    "make_synthetic": (SOURCES,),
    "load_global_opinions": (SOURCES,),
    "load_table": (SOURCES,),
    "load_pairs": (SOURCES,),
    "load_ratings": (SOURCES,),
    "survey_from_pairs": (SOURCES,),
    "survey_from_ratings": (SOURCES,),
    "survey_by_columns": (SOURCES,),
    "read_dataset": (SOURCES,),
    "private_survey": (SOURCES,),
    "noisy_answers": ("task/respondents.py",),
    # The latter two: contexts that users give, and those that were exported.
    "survey_from_frame": (SOURCES, "task/predicting.py", "task/reward_files.py"),
    # And responses to score, which are no answers.
    "read_frame": (SOURCES, "task/predicting.py", "task/reward_files.py", "task/rollouts.py"),
}
"""What reads a survey's exact answers, and the files that may use it."""


@pytest.mark.parametrize(
    "file",
    [*FILES, *sorted((ROOT / "benchmarks").glob("*.py"))],
    ids=lambda f: str(f.relative_to(ROOT)),
)
def test_answers_are_read_as_the_privacy_unit_lets_them(file):
    own = str(file.relative_to(ROOT))
    for node in ast.walk(ast.parse(file.read_text())):
        named = set()
        if isinstance(node, ast.Name):
            named = {node.id}
        elif isinstance(node, ast.Attribute):
            named = {node.attr}
        elif isinstance(node, ast.ImportFrom):
            named = {alias.name for alias in node.names}
        for name in named & set(RAW_READERS):
            assert own.startswith(RAW_READERS[name]), f"{name} in line {node.lineno}"
