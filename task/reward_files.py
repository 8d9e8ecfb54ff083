"""A reward model on disk: a predictor, and the contexts of the groups that agreed to lend them.

`model.safetensors` and `config.json` are the predictor's, `contexts.jsonl` holds answered questions
(a survey in long form), `reward.json` which groups took part and the temperature, `encoder/` the
encoder's own files if they were added, `README.md` the model card.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from task.errors import RewardError
from task.reward import RewardModel
from task.roles import Role
from task.saved_predictor import encoder_of, load_predictor
from task.sources.files import read_frame
from task.sources.table import survey_from_frame
from task.survey import Survey

CONTEXTS, GROUPS, ENCODER = "contexts.jsonl", "reward.json", "encoder"
HUB_FILES = ("model.safetensors", "config.json", CONTEXTS, GROUPS, f"{ENCODER}/*")


def load_reward_model(
    source: str | Path,
    *,
    which: str = "best",
    encoder: str = "",
    device: torch.device | str | None = None,
) -> RewardModel:
    """Load a reward model; see `RewardModel.load`."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _from_hub(str(source))
    predictor = load_predictor(folder, which)
    if not encoder and (folder / ENCODER).is_dir():
        encoder = str(folder / ENCODER)
    return RewardModel(
        predictor,
        read_contexts(folder),
        encoder=encoder_of(predictor, encoder),
        roles=read_roles(folder),
        device=device,
        temperature=read_temperature(folder),
    )


def read_contexts(folder: Path) -> dict[str, Survey]:
    """Return the contexts in a reward model's folder, by group."""
    file = folder / CONTEXTS
    if not file.exists():
        return {}
    survey = survey_from_frame(read_frame(str(file)), where=str(file))
    return dict.fromkeys(survey.answers, survey)


def read_roles(folder: Path) -> dict[str, Role]:
    """Return the role of every group that took part in the run, if the folder says.

    Raises:
        RewardError: the file that says so is damaged.
    """
    if (folder / GROUPS).exists():
        return _told(folder)[0]
    if (folder / "groups.parquet").exists():  # a run directory
        frame = pd.read_parquet(folder / "groups.parquet")
        return dict(zip(frame["group"], frame["role"], strict=True))
    return {}


def read_temperature(folder: Path) -> float:
    """Return the temperature of an exported reward model; 1: it has not been calibrated.

    Raises:
        RewardError: the file that says so is damaged.
    """
    return _told(folder)[1] if (folder / GROUPS).exists() else 1.0


def _told(folder: Path) -> tuple[dict[str, Role], float]:
    """Return roles and temperature as `reward.json` has them."""
    try:
        told = json.loads((folder / GROUPS).read_text())
        roles: dict[str, Role] = dict(told["roles"])
        temperature = float(told.get("temperature", 1.0))
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature = {temperature}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RewardError(
            f'{folder / GROUPS} is damaged: expected {{"roles": {{group: role}}, "temperature": a '
            "number above 0}. Export the run again."
        ) from error
    return roles, temperature


def write_contexts(survey: Survey, folder: Path) -> None:
    """Write groups' answered questions, for everybody to read who gets the folder."""
    rows = [
        {
            "group": group,
            "question_id": position,
            "question": survey.questions[position].text,
            "option": option,
            "share": round(float(share), 7),
        }
        for group, answers in survey.answers.items()
        for index, position in enumerate(answers.questions.tolist())
        for option, share in zip(
            survey.questions[position].options, answers.distribution(index), strict=True
        )
    ]
    pd.DataFrame(rows).to_json(folder / CONTEXTS, orient="records", lines=True, force_ascii=False)


def write_facts(roles: Mapping[str, Role], temperature: float, folder: Path) -> None:
    """Write the role of every group of the run, and the temperature."""
    told = {"roles": dict(sorted(roles.items())), "temperature": temperature}
    (folder / GROUPS).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # hub, network and cache failures share no base class
        raise RewardError(
            f"{name!r} is no folder here, and cannot be loaded from the Hugging Face hub "
            f"({type(error).__name__}). Give a run directory, or a folder that `pluralllm export` "
            "wrote."
        ) from error
