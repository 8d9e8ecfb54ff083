"""How a policy answers: against the groups' true answers, and against the base model.

All figures are exact given the policy: an answer is one token, and the probabilities of all tokens
are known. Nothing is sampled.

Suffixes: Q questions, V tokens of the vocabulary, O options of a question.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignment.policy import Policy
from alignment.prompts import prompt_of
from task.metrics import Fairness, alignment_score
from task.survey import Question

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Answering:
    """A policy's answers to some questions.

    Attributes:
        shares: for each question (O,) the distribution over its options, given that one is chosen.
        outside: for each question the probability of an answer that is none of them.
        log_probs_QV: log probabilities of all tokens; None where they are not those of a model.
    """

    shares: list[Shares]
    outside: Shares
    log_probs_QV: Tensor | None = None

    @classmethod
    def of(
        cls,
        policy: Policy,
        questions: Sequence[Question],
        batch: int,
        prompt: Callable[[Question], str] = prompt_of,
    ) -> "Answering":
        """Ask a policy.

        Args:
            policy: the policy.
            questions: what is asked.
            batch: questions per forward pass.
            prompt: how it is asked.
        """
        log_probs_QV = policy.next_token_log_probs([prompt(q) for q in questions], batch)
        shares, outside = [], []
        for question, log_p_V in zip(questions, log_probs_QV, strict=True):
            log_p_O = log_p_V[policy.letters_A[: len(question.options)]].double()
            shares.append(log_p_O.softmax(0).numpy())
            outside.append(float(1 - log_p_O.exp().sum()))
        return cls(shares, np.maximum(outside, 0.0), log_probs_QV)


def best_of_n(base: Answering, rewards: Sequence[Shares], floor: float, n: int) -> Answering:
    """Return the answers that are best of n by their rewards: exactly, not by sampling.

    The best of n lies among the answers of reward r with probability F(r)^n - F(r-)^n, F being the
    distribution of the reward under the base model, and among them each is as likely as the base
    model makes it (the first of equally good answers is kept).

    Args:
        base: the base model's answers.
        rewards: for each question (O,) rewards of its options.
        floor: reward of an answer outside the options.
        n: answers that are sampled.
    """
    shares, outside = [], []
    for p_O, none, reward_O in zip(base.shares, base.outside, rewards, strict=True):
        p = np.append(p_O * (1 - none), none)
        r = np.append(reward_O, floor)
        best = np.zeros_like(p)
        for value in np.unique(r):
            equal = r == value
            mass = p[equal].sum()
            if mass > 0:
                below = min(1.0, p[r < value].sum())
                best[equal] = p[equal] / mass * (min(1.0, below + mass) ** n - below**n)
        inside = best[:-1].sum()
        shares.append(best[:-1] / inside if inside > 0 else p_O)
        outside.append(float(best[-1]))
    return Answering(shares, np.array(outside))


def optimum(base: Answering, rewards: Sequence[Shares], beta: float) -> Answering:
    """Return pi_ref exp(r / beta) / Z over the options: what training tends to."""
    shares = [
        _softmax(np.log(np.maximum(p_O, 1e-300)) + reward_O / beta)
        for p_O, reward_O in zip(base.shares, rewards, strict=True)
    ]
    return Answering(shares, np.zeros(len(shares)))


def alignment(
    shares: Sequence[Shares] | Mapping[str, Sequence[Shares]],
    truth: Mapping[str, Sequence[Shares | None]],
) -> dict[str, Any]:
    """Return alignment scores and their fairness over groups.

    Args:
        shares: for each question the answers of a policy; or such, for each group its own.
        truth: for each group its true answers to each question; None: it was not asked.

    Returns:
        `groups`: mean alignment score of each group over the questions it was asked; and the
        fields of `task.metrics.Fairness` over groups.
    """
    scores = {}
    for group, true in truth.items():
        given = shares[group] if isinstance(shares, Mapping) else shares
        values = [
            float(alignment_score(torch.from_numpy(p_O), torch.from_numpy(t_O)))
            for p_O, t_O in zip(given, true, strict=True)
            if t_O is not None
        ]
        scores[group] = float(np.mean(values))
    return {"groups": scores, **asdict(Fairness.of(scores))}


def similarity(one: Sequence[Shares], other: Sequence[Shares]) -> float:
    """Return the mean alignment score between two policies' answers to the same questions."""
    return float(
        np.mean(
            [
                float(alignment_score(torch.from_numpy(p_O), torch.from_numpy(q_O)))
                for p_O, q_O in zip(one, other, strict=True)
            ]
        )
    )


def win_rate(policy: Answering, base: Answering, rewards: Sequence[Shares | None]) -> float | None:
    """Return how often the policy's answer has a higher reward than the base model's.

    Both answer by their distributions over the options, independently; equal rewards count half.

    Args:
        policy: one's answers.
        base: the other's.
        rewards: for each question (O,) rewards of its options; None: it is not judged.

    Returns:
        The mean over the questions that are judged; None: none is.
    """
    wins = []
    for p_O, q_O, reward_O in zip(policy.shares, base.shares, rewards, strict=True):
        if reward_O is not None:
            better_OO = np.sign(reward_O[:, None] - reward_O[None, :]) / 2 + 0.5
            wins.append(float(p_O @ better_OO @ q_O))
    return float(np.mean(wins)) if wins else None


def divergences(policy: Answering, base: Answering) -> dict[str, float]:
    """Return KL(policy || base) in nats, means over questions.

    Returns:
        `kl_answers`: between the distributions over the options; `kl_tokens`: between those over
        all tokens, or where only the options are known over them and everything else as one.
    """
    answers = [_kl(p_O, q_O) for p_O, q_O in zip(policy.shares, base.shares, strict=True)]
    if policy.log_probs_QV is not None and base.log_probs_QV is not None:
        p_QV, q_QV = policy.log_probs_QV.double(), base.log_probs_QV.double()
        tokens = float((p_QV.exp() * (p_QV - q_QV)).sum(-1).mean())
    else:
        tokens = float(
            np.mean(
                [
                    _kl(np.append(p_O * (1 - p), p), np.append(q_O * (1 - q), q))
                    for p_O, p, q_O, q in zip(
                        policy.shares, policy.outside, base.shares, base.outside, strict=True
                    )
                ]
            )
        )
    return {"kl_answers": float(np.mean(answers)), "kl_tokens": tokens}


def _kl(p: Shares, q: Shares) -> float:
    some = p > 0
    return float((p[some] * (np.log(p[some]) - np.log(np.maximum(q[some], 1e-300)))).sum())


def _softmax(values: Shares) -> Shares:
    exponentials = np.exp(values - values.max())
    return np.asarray(exponentials / exponentials.sum())
