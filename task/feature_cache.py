"""Features of texts in memory: each text is encoded once, by an encoder that stays loaded."""

import warnings
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from task.config import EncoderConfig
from task.encoder import encode_cached, make_encoder
from task.survey import Question

MOST_TEXTS = 100_000


class TruncationWarning(UserWarning):
    """Texts were longer than the encoder takes, and were cut."""


class FeatureCache:
    """Looks features up, and encodes what it has not seen.

    For texts that come and go, such as a language model's responses; `task.encoder.encode_cached`
    keeps a survey's features on disk.

    Args:
        config: the encoder.
        most_texts: so many features are kept, those used last.
    """

    def __init__(self, config: EncoderConfig, most_texts: int = MOST_TEXTS) -> None:
        self.config = config
        self.encoder = make_encoder(config)
        self._all_options_matter = config.text_format == "alpaca"
        self._most = most_texts
        self._known: OrderedDict[Question, NDArray[np.float32]] = OrderedDict()

    @property
    def num_truncated(self) -> int:
        """Texts so far that were longer than the encoder takes."""
        return self.encoder.num_truncated

    def features(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """Return (options of all questions, d_x) features, question after question.

        Warns, with their number, of texts that had to be cut.

        Raises:
            EncoderError: the encoder cannot be loaded, or gives features that are not finite.
        """
        wanted = [part for question in questions for part in self._parts(question)]
        missing = list(dict.fromkeys(part for part in wanted if part not in self._known))
        if missing:
            self._encode(missing)
        rows = [self._known[part] for part in wanted]
        for part in wanted:
            self._known.move_to_end(part)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return np.concatenate(rows)

    def preload(self, questions: Sequence[Question]) -> None:
        """Take over the features of a survey's questions that this machine keeps on disk.

        What is not there yet is computed and kept there; see `task.encoder.encode_cached`.

        Raises:
            EncoderError: see `features`.
        """
        self._keep(
            [part for question in questions for part in self._parts(question)],
            encode_cached(questions, self.config),
        )

    def _parts(self, question: Question) -> list[Question]:
        """Return what is encoded by itself: an option alone, or a question whose text lists all."""
        if self._all_options_matter:
            return [question]
        return [Question(question.text, (option,)) for option in question.options]

    def _encode(self, missing: Sequence[Question]) -> None:
        before = self.encoder.num_truncated
        encoded = self.encoder.encode(missing)
        self._keep(missing, encoded)
        if cut := self.encoder.num_truncated - before:
            warnings.warn(
                f"{cut} of {len(encoded)} texts are longer than the encoder takes and were cut at "
                "its end; see encoder.max-length and the model's own limit.",
                TruncationWarning,
                stacklevel=4,
            )

    def _keep(self, parts: Sequence[Question], features: NDArray[np.float32]) -> None:
        start = 0
        for part in parts:
            end = start + len(part.options)
            self._known[part] = features[start:end].copy()
            start = end
