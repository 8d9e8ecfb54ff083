"""Comparisons drawn from a survey's answer distributions, as people with these answers make them.

Asked which of two options i and j they prefer, a group's people choose i with probability
p_i / (p_i + p_j), where p are the group's answer shares. That is Luce's choice axiom (Luce,
"Individual Choice Behavior", 1959), and the Bradley-Terry model (Biometrika 39, 1952) whose
strengths are the shares. So a reward that fits the comparisons has the shares back: its log-odds of
i over j are log p_i - log p_j.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from task.seeding import generator
from task.survey import Survey


class SampledPair(NamedTuple):
    """A row of a file of pairs (`task.sources.pairs`).

    Attributes:
        group: who was asked.
        user: which of its users.
        prompt: the question.
        chosen: the preferred option.
        rejected: the other one.
        weight: how often that came out.
    """

    group: str
    user: str
    prompt: str
    chosen: str
    rejected: str
    weight: int


def sample_pairs(survey: Survey, per_question: int, users: int, seed: int) -> Iterator[SampledPair]:
    """Draw comparisons of every group, independently of all other groups.

    For every question of the group `per_question` pairs of different options are drawn, uniformly
    and with replacement; the winner of each by the shares, and which of the group's users was
    asked, uniformly. A pair of options that nobody chose, or with the same text, is skipped. Equal
    comparisons of a user are one row with their number as its weight.

    Args:
        survey: with each group's answer distributions.
        per_question: comparisons of each question, at least 1.
        users: of each group, at least 1; they share the group's preferences.
        seed: of all randomness, together with the group's name.

    Yields:
        The rows, in the order of groups and questions.
    """
    for group, answers in survey.answers.items():
        random = generator(seed, "sampled pairs", group)
        width = len(str(users))
        for index, position in enumerate(answers.questions.tolist()):
            question = survey.questions[position]
            shares = answers.distribution(index).astype(np.float64)
            drawn: Counter[tuple[str, str, str]] = Counter()
            for _ in range(per_question):
                one, other = random.choice(len(shares), 2, replace=False).tolist()
                user, chance = int(random.integers(users)), random.random()
                texts = question.options[one], question.options[other]
                both = shares[one] + shares[other]
                if both == 0 or texts[0] == texts[1]:
                    continue
                chosen, rejected = texts if chance < shares[one] / both else texts[::-1]
                drawn[f"user-{user + 1:0{width}}", chosen, rejected] += 1
            for (user_name, chosen, rejected), number in sorted(drawn.items()):
                yield SampledPair(group, user_name, question.text, chosen, rejected, number)
