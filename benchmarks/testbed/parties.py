"""Parties of a testbed: real or synthetic answers, split into one file per group."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from task.config import RunConfig
from task.paths import file_stem
from task.sources import load_survey
from task.survey import Survey


@dataclass(frozen=True)
class Party:
    """Who takes part, with the data of one group.

    Attributes:
        name: of the party; safe for files and machines.
        group: its group.
        role: `train` or `held-out`.
        data: its own file, in long form.
    """

    name: str
    group: str
    role: str
    data: Path


@dataclass(frozen=True)
class Split:
    """A survey dealt out to parties.

    Attributes:
        parties: training ones first.
        joined: all parties' rows in one file, for a simulation.
        texts: all questions and options in it, longest first.
    """

    parties: tuple[Party, ...]
    joined: Path
    texts: tuple[str, ...]

    @property
    def simulation_settings(self) -> dict[str, Any]:
        """Settings with which a simulation trains on the same groups in the same roles."""
        by_role: dict[str, list[str]] = {"train": [], "held-out": []}
        for party in self.parties:
            by_role[party.role].append(party.group)
        return {
            "data.source": "table",
            "data.path": str(self.joined),
            "data.train-groups": " | ".join(by_role["train"]),
            "data.held-out-groups": " | ".join(by_role["held-out"]),
        }


def split_survey(
    settings: Mapping[str, Any], folder: Path, num_train: int, num_held_out: int
) -> Split:
    """Write a file for each of the groups with most questions; the last of them are held out.

    Args:
        settings: where the survey comes from: `data.*`.
        folder: where a folder per party is made.
        num_train: number of training groups.
        num_held_out: number of held-out groups.
    """
    survey = load_survey(RunConfig.from_flat(settings))
    most = sorted(survey.answers, key=lambda group: (-len(survey.answers[group]), group))
    groups = most[: num_train + num_held_out]
    parties, frames = [], []
    for index, group in enumerate(groups):
        frame = group_frame(survey, group)
        name = file_stem(group).rsplit("-", 1)[0]
        file = folder / name / "answers.parquet"
        file.parent.mkdir(parents=True)
        frame.to_parquet(file, index=False)
        role = "train" if index < num_train else "held-out"
        parties.append(Party(name, group, role, file))
        frames.append(frame)
    everything = pd.concat(frames)
    joined = folder / "joined.parquet"
    everything.to_parquet(joined, index=False)
    return Split(tuple(parties), joined, distinctive_texts(everything))


def group_frame(survey: Survey, group: str) -> pd.DataFrame:
    """Return a group's answers in long form: one row per question and option."""
    answers = survey.answers[group]
    rows = [
        (group, str(survey.questions[position].key), survey.questions[position].text, option, share)
        for index, position in enumerate(answers.questions)
        for option, share in zip(
            survey.questions[position].options, answers.distribution(index), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=["group", "question_id", "question", "option", "share"])


def distinctive_texts(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return all question and option texts, longest first."""
    texts = set(frame["question"]) | set(frame["option"])
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))
