"""What a node's owner was promised (`max-epsilon`), charged before a group's answers are read."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message

from client_app.node import is_simulated
from client_app.state import run_key, state_folder
from task.config import RunConfig
from task.node_config import NodeConfig
from task.node_ledger import FOLDER, ClientRun, MemberRelease, NodeLedger
from task.question_ledger import QuestionLedger
from task.respondent_accounting import most_answered
from task.sources import release_of


def charge_histograms(config: RunConfig, context: Context, groups: Iterable[str]) -> None:
    """Charge the histograms of groups that a run of unit member reads, where the owner limits it.

    Raises:
        BudgetError: all runs together would cost more than the node's `max-epsilon`.
        RunDirectoryError: the ledger is damaged.
    """
    node = _limiting(context)
    if not node or node.privacy_unit != "member":
        return
    for group in groups:
        release, num_questions = release_of(config, group)
        charge = MemberRelease(
            release=release,
            noise=config.privacy.histogram_noise,
            multiplier=config.privacy.noise_multiplier,
            answered=most_answered(config.privacy, num_questions),
        )
        _ledger(node).charge(group, charge)


def charge_run(config: RunConfig, context: Context, message: Message, group: str) -> None:
    """Charge a group for taking part in a run of unit client, where the owner limits it.

    Raises:
        BudgetError: all runs together would cost more than the node's `max-epsilon`.
        RunDirectoryError: the ledger is damaged.
    """
    node = _limiting(context)
    if node and node.privacy_unit == "client":
        charge = ClientRun(release=run_key(message), epsilon=config.privacy.max_epsilon)
        _ledger(node).charge(group, charge)


def question_ledger(config: RunConfig, context: Context, message: Message) -> QuestionLedger:
    """Return the ledger of a run, which charges that of all runs too where the owner limits it."""
    folder = state_folder(config, context, message)
    node = _limiting(context)
    if not node:
        return QuestionLedger(folder, config.privacy)
    limits = replace(config.privacy, max_epsilon=node.max_epsilon, delta=node.max_delta)
    over_runs = QuestionLedger(_folder(node), limits, budget="max-epsilon of this node")
    return QuestionLedger(folder, config.privacy, over_runs=over_runs)


def _limiting(context: Context) -> NodeConfig | None:
    """Return the config of a node whose owner limits what its answers may cost."""
    if is_simulated(context):
        return None
    node = NodeConfig.of(context.node_config)
    return node if node.max_epsilon else None


def _ledger(node: NodeConfig) -> NodeLedger:
    return NodeLedger(_folder(node), node.max_epsilon, node.max_delta)


def _folder(node: NodeConfig) -> Path:
    return Path(node.state_path) / FOLDER
