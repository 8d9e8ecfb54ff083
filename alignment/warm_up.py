"""The warm-up of a made model: it learns to read options, and to have no opinion of its own."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from alignment.config import PolicySettings
from alignment.evaluation import Answering, similarity
from alignment.policy import Policy, next_token_logits
from alignment.prompts import exercise_of, prompt_of
from task.seeding import generator
from task.survey import Question

TASTE_SCALE = 1.5
"""Standard deviation of the made-up person's liking of an option, in logits."""

RISING_STEPS = 50
"""Steps over which the learning rate rises."""

MAX_GRADIENT_NORM = 1.0


def warm_up(
    policy: Policy, questions: Sequence[Question], settings: PolicySettings, seed: int
) -> None:
    """Teach a model to answer with a uniformly random letter of the question's options.

    A model that has only ever answered at random has no need to tell options apart, and then there
    is little that a reward could change: from such a base GRPO hardly leaves its start. So half of
    the steps, and half of each later step, are exercises: the same questions, asked of a made-up
    person (`alignment.prompts.exercise_of`) who likes every word to a random degree, and an option
    as its words. No group's answers are used. The other questions have the uniform distribution as
    their answer. Both are the cross-entropy of the next token against the distribution over the
    letters, which is that of letters drawn from it, without their noise; options are in random
    order.

    Args:
        policy: its model is trained in place, in float32; with `bfloat16` under autocast.
        questions: what is asked.
        settings: number of steps, learning rate and size of a step.
        seed: of the made-up person, and of what is asked when.
    """
    if settings.warm_up_steps == 0:
        return
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=settings.warm_up_learning_rate)
    rising = min(RISING_STEPS, settings.warm_up_steps // 10)
    schedule = get_cosine_schedule_with_warmup(optimizer, rising, settings.warm_up_steps)
    random = generator(seed, "warm-up")
    letters_A = policy.letters_A.to(policy.device)
    policy.model.train()
    for step in range(settings.warm_up_steps):
        prompts, shares = [], []
        for row, index in enumerate(random.integers(0, len(questions), settings.warm_up_batch)):
            options = tuple(map(str, random.permutation(questions[index].options)))
            question = Question(questions[index].text, options)
            exercise = row % 2 == 1 or step < settings.warm_up_steps // 2
            prompts.append(exercise_of(question) if exercise else prompt_of(question))
            shares.append(
                made_up_shares(question, seed)
                if exercise
                else torch.full((len(options),), 1 / len(options))
            )
        with torch.autocast(policy.device.type, torch.bfloat16, settings.dtype == "bfloat16"):
            logits_BV = next_token_logits(policy, prompts)
        losses = [
            -(log_p_V[letters_A[: len(shares_O)]] @ shares_O.to(policy.device))
            for log_p_V, shares_O in zip(logits_BV.log_softmax(-1), shares, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()


def exercise_scores(
    policy: Policy, questions: Sequence[Question], seed: int, batch: int
) -> dict[str, float]:
    """Return how well exercises are answered: whether the model can tell options apart.

    Returns:
        `base`, the mean alignment score of the model's answers with the made-up person's, and
        `uniform`, that of uniform answers: near it, there is little that a reward can change.
    """
    answers = Answering.of(policy, questions, batch, exercise_of)
    expected = [made_up_shares(question, seed).double().numpy() for question in questions]
    uniform = [np.full(len(shares_O), 1 / len(shares_O)) for shares_O in expected]
    return {
        "base": similarity(answers.shares, expected),
        "uniform": similarity(uniform, expected),
    }


def made_up_shares(question: Question, seed: int) -> Tensor:
    """Return (O,) float32 answer distribution of the made-up person."""
    liking = []
    for option in question.options:
        words = re.findall(r"\w+", option.casefold()) or [option]
        liking.append(sum(_taste(seed, word) for word in words) / len(words) ** 0.5)
    return (TASTE_SCALE * torch.tensor(liking)).softmax(0).float()


@lru_cache(maxsize=100_000)
def _taste(seed: int, word: str) -> float:
    """Return the made-up person's liking of a word, standard normal over words."""
    return float(generator(seed, "made-up taste", word).normal())
