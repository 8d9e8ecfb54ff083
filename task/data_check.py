"""What a data owner wants to know of a file before a node serves it: is it usable, what leaves?

The file is read as the node will read it, so what would make the client refuse is found here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from task.config import NODES, RunConfig
from task.features import load_features, load_fingerprint, load_roles
from task.metrics import NUM_BINS
from task.node_config import NodeConfig
from task.predictor import PreferencePredictor
from task.roles import Role, num_held_back
from task.scoring_config import SCORABLE_UNITS
from task.sources import load_asked, load_survey


@dataclass(frozen=True)
class CheckedGroup:
    """A group that the node would serve.

    Attributes:
        name: its name.
        role: `train` or `held-out`.
        num_questions: questions that it answers.
        num_options: of all these together.
        num_held_back: of a training group: questions that never train, for its own score.
    """

    name: str
    role: Role
    num_questions: int
    num_options: int
    num_held_back: int


@dataclass(frozen=True)
class DataCheck:
    """What was found.

    Attributes:
        path: the file.
        in_file: every group in it, with its number of questions.
        dropped: why answers or rows are left out, with their number.
        groups: those that the node would serve.
        feature_dimension: numbers that an encoder makes of a question and option.
        num_parameters: of the predictor.
    """

    path: str
    in_file: Mapping[str, int]
    dropped: Mapping[str, int]
    groups: tuple[CheckedGroup, ...]
    feature_dimension: int
    num_parameters: int


def check_data(node: NodeConfig, config: RunConfig) -> DataCheck:
    """Check a node's file for a run with these settings.

    Args:
        node: the file, and which of its groups are served in which role.
        config: the run's settings, as far as they are known; the server may send others.

    Raises:
        SurveyError: the file is malformed, or a group has too few questions.
        ConfigError: the node would refuse the run, or the file cannot be what the run needs.
        EncoderError: the encoder is not to be had on this machine.
    """
    config = replace(config, data=replace(config.data, source=NODES))
    applied = node.apply(config)
    whole = load_asked(replace(applied.data, train_groups="", held_out_groups=""), config.run.seed)
    roles = load_roles(applied.data, applied.evaluation, applied.run.seed)
    survey = load_survey(applied)  # unit member: counts, or declared respondents
    load_fingerprint(applied.encoder)
    dimension = load_features(applied.data, applied.encoder, applied.run.seed).shape[1]
    predictor = PreferencePredictor.of(applied.predictor, dimension)
    groups = []
    for name, role in roles.items():
        lengths = load_asked(applied.data, applied.run.seed).answers[name].lengths
        held_back = num_held_back(len(lengths), applied.data) if role == "train" else 0
        groups.append(CheckedGroup(name, role, len(lengths), int(lengths.sum()), held_back))
    return DataCheck(
        path=node.data_path,
        in_file={name: len(answers) for name, answers in whole.answers.items()},
        dropped=survey.dropped,
        groups=tuple(groups),
        feature_dimension=dimension,
        num_parameters=sum(parameter.numel() for parameter in predictor.parameters()),
    )


def what_leaves(check: DataCheck, node: NodeConfig, config: RunConfig) -> list[str]:
    """Return what a run with these settings would send from this machine, an item each."""
    sent = _once(check, node, config)
    if any(group.role == "train" for group in check.groups):
        sent += _every_training_round(check, config)
    return [*sent, *_every_evaluation(check, config), *_scores(node, config), *_on_failure()]


def what_stays(check: DataCheck, node: NodeConfig, config: RunConfig) -> list[str]:
    """Return what never leaves, whatever the server asks for, an item each."""
    served = {group.name for group in check.groups}
    stays = ["the texts of questions and options"]
    disclosed = config.predictor.population_weight and node.role == "train"
    if config.privacy.unit == "member" and (disclosed or node.allow_scoring):
        stays.append("exact answers and counts")
    elif not disclosed:
        but = ", but for what scores tell of them" if _scores(node, config) else ""
        stays.append(f"answers: single ones, counts and shares alike{but}")
    if others := sorted(set(check.in_file) - served):
        stays.append(f"all about the file's other groups: {', '.join(others)}")
    if config.privacy.unit in ("member", "question"):
        stays.append("the noise, and the exact values that it was added to")
    return stays


def _once(check: DataCheck, node: NodeConfig, config: RunConfig) -> list[str]:
    sent = ["once: the names and roles of its groups, and the encoder's fingerprint"]
    for group in check.groups:
        sent.append(
            f"once, of {group.name}: 64-bit hashes of {group.num_questions} questions with their "
            "options (whoever has the same question can tell that it was asked)"
        )
        if group.role != "train":
            continue
        sent.append(
            f"once, of {group.name}: sums of the features of {group.num_options} texts (1 + 2 x "
            f"{check.feature_dimension} numbers), which depend on no answer"
        )
        if config.predictor.population_weight:
            noisy = " with noise" if config.privacy.unit == "member" else ""
            sent.append(
                f"once, of {group.name}: ITS ANSWERS, {group.num_options} shares{noisy} "
                "(predictor.population-weight; disclose-answers allows it)"
            )
    return sent


def _every_training_round(check: DataCheck, config: RunConfig) -> list[str]:
    size = f"{check.num_parameters:,} numbers"
    privacy = config.privacy
    if privacy.secure_aggregation:
        noise = ", with this client's share of the noise" if privacy.unit == "client" else ""
        return [
            f"each training round: the update of the predictor's parameters ({size}), masked"
            f"{noise}: the server learns sums over clients only"
        ]
    how = {
        "none": "exact",
        "client": "exact: the server adds the noise",
        "question": "from training with noise (DP-SGD)",
        "member": "trained on answers with noise",
    }[privacy.unit]
    if config.compression.name != "none":
        how += f", compressed ({config.compression.name})"
    sent = [f"each training round: the updated parameters of the predictor ({size}; {how})"]
    trained = {
        group.name: group.num_questions - group.num_held_back
        for group in check.groups
        if group.role == "train"
    }
    counts = ", ".join(f"{name}: {number}" for name, number in trained.items())
    sent.append(f"each training round: the number of questions that it trains on ({counts})")
    if privacy.unit != "question":
        sent.append(
            "each training round: its mean loss, and what some strategies ask for besides: loss "
            "or alignment score before training (docs/strategies.md)"
        )
    else:
        exact = " and its mean loss" if privacy.metrics == "full" else ""
        sent.append(f"each training round: the epsilon spent so far{exact}")
    return sent


def _every_evaluation(check: DataCheck, config: RunConfig) -> list[str]:
    metrics, unit = config.privacy.metrics, config.privacy.unit
    if metrics == "off":
        return []
    if metrics == "noisy" and unit == "question":
        return ["each evaluation: one alignment score with noise, and the epsilon spent so far"]
    after = "; the server adds noise before it shows them" if metrics == "noisy" else ""
    return [
        "each evaluation, of every group: sums of alignment scores and of right top options over "
        "its target questions (all, seen, new), their number, and a calibration table of 3 x "
        f"{NUM_BINS} sums without bins of few options{after}"
    ]


def _scores(node: NodeConfig, config: RunConfig) -> list[str]:
    """Return what scoring responses sends, where the owner allows it and the unit does."""
    if not node.allow_scoring or config.privacy.unit not in SCORABLE_UNITS:
        return []
    answers = "answers with noise" if config.privacy.unit == "member" else "ITS EXACT ANSWERS"
    return [
        "whenever it is asked, of every group: one number per response that the server sends, "
        f"computed from {answers} to a few questions; enough of them tell these answers "
        "(allow-scoring)"
    ]


def _on_failure() -> list[str]:
    return [
        "when it fails: why, without anything of the survey",
        "always: this machine's network address, its node's key, and how long it takes to answer",
    ]
