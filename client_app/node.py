"""Which node this is: a simulation's, which is dealt groups, or one with data of its own."""

from flwr.app import Context

from task.config import RunConfig
from task.features import load_roles
from task.node_config import NodeConfig
from task.paths import project_folder


def is_simulated(context: Context) -> bool:
    """Return whether the node is a simulation's, on the machine of whoever runs it."""
    return "partition-id" in context.node_config


def settings_for(context: Context) -> RunConfig:
    """Return the run's settings as this node carries them out.

    Raises:
        ConfigError: a setting is wrong, or a node of its own does not agree to it.
        SurveyError: the file of a node of its own cannot be read.
    """
    config = RunConfig.from_flat(context.run_config)
    if is_simulated(context):
        return config.with_absolute_paths(project_folder())
    return NodeConfig.of(context.node_config).apply(config)


def groups_held(config: RunConfig, context: Context) -> list[str]:
    """Return the groups of this node; a simulation's are dealt out, like cards."""
    groups = list(load_roles(config.data, config.evaluation, config.run.seed))
    if not is_simulated(context):
        return groups
    first = int(context.node_config["partition-id"])
    return groups[first :: int(context.node_config["num-partitions"])]
