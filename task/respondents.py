"""Unit `member`: noise on a group's answer histograms, so that no single respondent shows.

The histograms (counts per option) of a group are released once, with noise. All else reads the
released ones, the scores included: post-processing, which costs nothing more.

Neighbours, and the sensitivity of the M questions that a respondent answered:

* A source that counts: surveys that differ by one respondent of one group more or less. M counts
  change by one: M in L1, sqrt(M) in L2.
* A declared number (`privacy.respondents`), for sources of shares. It is public and stays as it is,
  so surveys in which one respondent answers the same questions otherwise. Twice M counts change, by
  at most one where at least as many people as declared answered: 2 M in L1, sqrt(2 M) in L2.

The noise is `privacy.noise-multiplier` times that. Not covered: a respondent who belongs to several
groups (each group's release costs its epsilon) or answered more than
`privacy.questions-per-respondent`; one whose survey weight is above 1, or changes others' weights;
which questions a group answered, of which those that nobody answered are dropped; in sequence, runs
with other settings or answers (each is a release of its own); what the last bits of floating-point
Gaussian noise may tell (Mironov 2012), which `discrete-laplace` has not.

Suffixes: O options of a question, R the same in the order of their texts, N options of all of a
group's questions.
"""

import hmac
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from task.errors import ConfigError, SurveyError
from task.noise import Noise, SecureNoise, hardened_normal
from task.noise_key import noise_key
from task.privacy_config import PrivacyConfig
from task.respondent_accounting import noise_scale, require_accountable
from task.survey import Answers, Survey
from task.weighting import project_to_simplex

Floats = NDArray[np.float64]


def private_survey(survey: Survey, privacy: PrivacyConfig, seed: int, folder: Path) -> Survey:
    """Return the survey with noisy answers; a group's are drawn when they are first read.

    Args:
        survey: the survey with exact answers.
        privacy: how much noise of which kind.
        seed: the run's seed; of no effect with `privacy.secure-noise`.
        folder: where the key of secure noise lies, or will.

    Raises:
        ConfigError: numbers of respondents are unknown.
        SurveyError: `privacy.respondents` contradicts them.
    """
    require_accountable(privacy)
    for group, answers in survey.answers.items():
        _require_respondents(survey, group, answers, privacy.respondents)
    return replace(survey, answers=_NoisyAnswers(survey, privacy, seed, folder))


def noisy_answers(
    survey: Survey, group: str, privacy: PrivacyConfig, seed: int, folder: Path
) -> Answers:
    """Return one group's answers from its noisy histograms, without counts.

    The same arguments give the same noise, in every process and however the file is sorted. Noise
    derives from a key (secure: of this machine; seeded: the seed, which gives no protection from
    those who know it) and from everything that is released of the group: a repeated run reads the
    same histograms again, at no new cost, while other answers or settings get noise that has
    nothing to do with it. That the answers have changed since is then to be seen.

    Args:
        survey: the survey with exact answers.
        group: the group.
        privacy: how much noise of which kind.
        seed: the run's seed; of no effect with `privacy.secure-noise`.
        folder: where the key of secure noise lies, or will.

    Raises:
        UserError: the key cannot be created or read.
    """
    answers = survey.answers[group]
    if not privacy.noise_multiplier:
        return replace(answers, counts=None)
    release = _Release.of(survey, group, privacy)
    secret = _secret(privacy, seed, folder)
    shares_N = np.empty_like(answers.shares)
    drawn: Counter[int] = Counter()
    for q in release.order:
        key, histogram_R, ranks_O = release.keys[q], release.histograms[q], release.ranks[q]
        noise = _noise_of(secret, release.digest, key, drawn[key])
        drawn[key] += 1
        noisy_R = histogram_R + draw_noise(
            privacy.histogram_noise, release.scale, len(ranks_O), noise
        )
        total = float(privacy.respondents if answers.counts is None else noisy_R.sum())
        shares_N[release.slices[q]] = to_distribution(noisy_R, total)[ranks_O]
    return replace(answers, shares=shares_N, counts=None)


def release_id(survey: Survey, group: str, privacy: PrivacyConfig, seed: int, folder: Path) -> str:
    """Return what tells one release of a group's noisy histograms from another.

    Its arguments are those of `noisy_answers`. To those who have not the noise's key it says
    nothing of the answers.
    """
    digest = _Release.of(survey, group, privacy).digest
    return hmac.digest(_secret(privacy, seed, folder), b"release" + digest, "sha256").hex()


@dataclass(frozen=True)
class _Release:
    """What is released of a group, before its noise.

    Attributes:
        scale: of the noise.
        keys: of the questions; `slices`, `ranks` and `histograms` belong to the same ones.
        slices: a question's options among the (N,) of all.
        ranks: (O,) places of its options in the order of their texts.
        histograms: (R,) exact counts.
        order: positions of questions: not the file's order, as some share a key.
        digest: of all that.
    """

    scale: float
    keys: list[int]
    slices: list[slice]
    ranks: list[NDArray[np.int64]]
    histograms: list[Floats]
    order: list[int]
    digest: bytes

    @classmethod
    def of(cls, survey: Survey, group: str, privacy: PrivacyConfig) -> "_Release":
        answers = survey.answers[group]
        counts_N = exact_counts(answers, privacy)
        scale = noise_scale(privacy, len(answers), declared=answers.counts is None)
        keys = survey.question_keys[answers.questions].tolist()
        slices = [slice(s, s + n) for s, n in zip(answers.starts, answers.lengths, strict=True)]
        places = zip(survey.option_offsets[answers.questions], answers.lengths, strict=True)
        ranks = [survey.option_ranks[start : start + length] for start, length in places]
        histograms = [counts_N[own][np.argsort(r)] for own, r in zip(slices, ranks, strict=True)]
        order = sorted(range(len(keys)), key=lambda q: (keys[q], histograms[q].tolist()))
        released = sha256(json.dumps([group, privacy.histogram_noise, scale]).encode())
        for q in order:
            released.update(keys[q].to_bytes(8, "big", signed=True) + histograms[q].tobytes())
        return cls(scale, keys, slices, ranks, histograms, order, released.digest())


def exact_counts(answers: Answers, privacy: PrivacyConfig) -> Floats:
    """Return the (N,) counts that noise is added to, whole for `discrete-laplace`.

    Args:
        answers: exact answers.
        privacy: the kind of noise, and the declared number of respondents for answers that have no
            counts.
    """
    if answers.counts is not None:
        return answers.counts.astype(np.float64)
    counts_N = answers.shares.astype(np.float64) * privacy.respondents
    return counts_N if privacy.histogram_noise == "gaussian" else np.rint(counts_N)


def draw_noise(kind: str, scale: float, size: int, noise: Noise) -> Floats:
    """Draw (size,) noise.

    Args:
        kind: `gaussian`, or `discrete-laplace`: integers x of probability proportional to
            exp(-|x| / scale).
        scale: see `noise_scale`; above 0.
        size: how many.
        noise: where from.
    """
    if kind == "gaussian":
        return scale * hardened_normal(noise, size)
    # P(floor(-ln(u) scale) >= k) = P(u <= exp(-k / scale)) for u uniform in (0, 1]: geometric, and
    # the difference of two such is discrete Laplace. Exact but for u's steps of 2^-53.
    geometric = np.floor(-np.log1p(-noise.random(2 * size)) * scale)
    difference: Floats = geometric[:size] - geometric[size:]
    return difference


def to_distribution(noisy_O: Floats, total: float) -> Floats:
    """Return the (O,) distribution closest to noisy counts over a total (Euclidean).

    Args:
        noisy_O: counts, of any sign.
        total: number of respondents; not above 0: the result is uniform; below 1: taken as 1.
    """
    if total <= 0:
        return np.full(len(noisy_O), 1 / len(noisy_O))
    # A constant added to all entries changes nothing but rounding, of which 0 at the top has least.
    return project_to_simplex((noisy_O - noisy_O.max()) / max(total, 1.0))


class _NoisyAnswers(Mapping[str, Answers]):
    """Group to noisy answers."""

    def __init__(self, survey: Survey, privacy: PrivacyConfig, seed: int, folder: Path) -> None:
        self._survey = survey
        self._settings = privacy, seed, folder
        self._drawn: dict[str, Answers] = {}

    def __getitem__(self, group: str) -> Answers:
        if group not in self._drawn:
            self._drawn[group] = noisy_answers(self._survey, group, *self._settings)
        return self._drawn[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._survey.answers)

    def __len__(self) -> int:
        return len(self._survey.answers)

    def __contains__(self, group: object) -> bool:
        return group in self._survey.answers


def _secret(privacy: PrivacyConfig, seed: int, folder: Path) -> bytes:
    # The key of seeded noise is as public as the seed.
    return noise_key(folder) if privacy.secure_noise else f"seed {seed}".encode()


def _noise_of(secret: bytes, released: bytes, key: int, number: int) -> Noise:
    question = key.to_bytes(8, "big", signed=True) + number.to_bytes(8, "big")
    return SecureNoise(hmac.digest(secret, released + question, "sha256"))


def _require_respondents(survey: Survey, group: str, answers: Answers, declared: int) -> None:
    known = answers.respondents
    if known is None and not declared:
        raise ConfigError(
            f"privacy.respondents = 0: the survey gives shares, not counts, for group {group!r}. "
            "With privacy.unit = 'member' set the number of respondents behind each answer "
            "distribution, or give a table with a column `count` of whole numbers."
        )
    if known is not None and declared and (known != declared).any():
        wrong = int(np.flatnonzero(known != declared)[0])
        question = survey.questions[answers.questions[wrong]]
        raise SurveyError(  # quotes the survey, so it must not be sent anywhere
            f"privacy.respondents = {declared}: the survey counts {known[wrong]} of group "
            f"{group!r} for the question {question.text!r}. Leave the key out (0), as the survey "
            "has counts."
        )
