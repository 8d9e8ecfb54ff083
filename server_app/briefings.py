"""What the server adds to every message besides the strategy's own records."""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType

from server_app.nodes.discovery import Client, Population
from server_app.outbox import Record
from task import records
from task.baselines import seen_question_keys
from task.config import RunConfig
from task.predictor import PreferencePredictor


class Briefings:
    """What every message carries besides the strategy's own records.

    The group it is for, the round, and the key of the run, under which clients keep what outlives a
    message (it stays the same when the run is resumed); feature statistics; the learning rates of a
    train message; the seen questions of an evaluate message; the population's answers if they are
    mixed into predictions.
    """

    def __init__(
        self,
        config: RunConfig,
        population: Population,
        predictor: PreferencePredictor,
        run_key: str,
    ) -> None:
        self._run_key = run_key
        self._train = config.train
        statistics = {
            records.FEATURE_MEAN: Array(predictor.feature_mean.numpy()),
            records.FEATURE_STD: Array(predictor.feature_std.numpy()),
        }
        self._statistics = ArrayRecord(statistics)
        self._answers = None
        if population.answers:
            arrays = population.answers.to_arrays()
            self._answers = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        seen = seen_question_keys(population.question_keys, population.roles)
        self._seen = {
            role: ArrayRecord({records.QUESTION_KEYS: Array(keys)}) for role, keys in seen.items()
        }

    def __call__(
        self, client: Client, message_type: str, server_round: int
    ) -> Mapping[str, Record]:
        """Return the records for one message."""
        briefing = ConfigRecord(
            {
                records.GROUP: client.group,
                records.ROUND: server_round,
                records.RUN_KEY: self._run_key,
            }
        )
        added: dict[str, Record] = {
            records.BRIEFING: briefing,
            records.FEATURE_STATISTICS: self._statistics,
        }
        if message_type.split(".")[0] == MessageType.TRAIN:
            briefing[records.LEARNING_RATES] = self._train.learning_rates(server_round)
        else:
            if message_type != records.SCORE:
                added[records.SEEN_QUESTIONS] = self._seen[client.role]
            if self._answers:
                added[records.POPULATION] = self._answers
        return added
