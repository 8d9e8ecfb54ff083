"""The errors a user is meant to read.

Every one carries a single message that names the offending value, what was expected and
what to do. They are raised before any training starts, and the command line prints them
without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right. Base class of the errors below."""


class ConfigError(UserError):
    """A run-config key or value is wrong."""


class NodeConfigError(ConfigError):
    """A node's own config is wrong. The message is for its owner: it may name files."""


class SurveyError(UserError):
    """Survey data cannot be read or breaks the survey schema."""


class ConversationError(UserError):
    """A prompt or response is neither a text nor a list of messages."""


class EncoderError(UserError):
    """An encoder cannot be loaded, or encoders do not match."""


class PopulationError(UserError):
    """The clients that answered cannot train a predictor together."""


class BudgetError(UserError):
    """The next release would cost more than `privacy.max-epsilon`; what there is so far is kept."""


class RoundError(UserError):
    """Too few clients sent a valid reply for a round to count."""


class DeploymentError(UserError):
    """A deployment's folder, key, certificate or process is not as it must be."""


class RewardError(UserError):
    """A response cannot be scored, or a reward model cannot be loaded or exported."""


class AlignmentError(UserError):
    """A language model cannot be aligned: the model, its tokenizer or the data do not allow it."""


class RunDirectoryError(UserError):
    """A run directory cannot be created, read or used."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
