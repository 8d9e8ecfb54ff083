"""What every report of a run directory says, whatever the run may disclose."""

from report.blocks import KeyFigure, Notice, Section
from report.files import RunFiles
from report.numbers import counted
from report.privacy import disclosure_of, exact_notice, guarantee_of, shown_epsilon
from report.sections import closing_sections, data_name, settings_section, strategy_name

ROLES = {"held_out": "Held-out groups", "train": "Training groups"}


def title(run: RunFiles, last_round: int) -> str:
    """Return the report's title."""
    strategy = strategy_name(run.settings) or "A run"
    return f"{strategy} on {data_name(run.settings)}, {counted(last_round, 'round')}"


def epsilon_key_figure(run: RunFiles) -> list[KeyFigure]:
    """Return the epsilon that the run has recorded last, if any."""
    guarantee = guarantee_of(run)
    if not guarantee:
        return []
    detail = f"for one {guarantee['unit']}, delta {guarantee['delta']:.3g}"
    return [KeyFigure("Epsilon", shown_epsilon(guarantee["epsilon"]), detail)]


def notices(run: RunFiles) -> list[Notice]:
    """Return what the reader must not miss: how the run ended, what is missing or not private."""
    found = []
    if run.status == "failed":
        found.append(Notice("This run failed: " + (run.reason or "it recorded no reason.")))
    elif run.status == "stopped":
        found.append(Notice(f"This run was stopped ({run.reason}); run.resume continues it."))
    elif run.status == "running":
        planned = run.settings.get("train.num-rounds", "?")
        last = run.rounds[-1]["round"] if run.rounds else 0
        found.append(
            Notice(
                f"This run has not finished, or was killed: round {last} of {planned} is the last "
                "that it recorded."
            )
        )
    if reason := next((entry["stopped"] for entry in run.rounds if entry.get("stopped")), ""):
        found.append(Notice(f"The privacy budget has ended this run. {reason}"))
    if notice := exact_notice(run.settings):
        found.append(notice)
    expected = [
        ("config.toml", "settings", run.settings),
        ("metrics.jsonl", "rounds", run.rounds),
        ("summary.json", "final scores and baselines", run.summary),
    ]
    if disclosure_of(run.settings) == "full":
        expected.append(("groups.parquet", "scores per group", run.groups))
    if missing := [f"{name}: {what}" for name, what, there in expected if not there]:
        found.append(Notice("What is missing from the run directory, and from here:", missing))
    if absent := run.summary.get("missing_groups"):
        found.append(Notice("Groups without a score in the last evaluation:", list(absent)))
    return found


def last_sections(run: RunFiles) -> list[Section]:
    """Return settings and environment, words, and how to cite."""
    command = f"pluralllm run {run.path / 'config.toml'} run.directory=again"
    return [settings_section(run.settings, run.environment, command), *closing_sections()]
