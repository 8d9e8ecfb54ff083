"""Loading a saved predictor: from a run directory, an exported folder, or a Hugging Face hub id."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import cast

from task.config import EncoderConfig, PredictorSettings
from task.encoder import make_encoder
from task.errors import ConfigError, EncoderError, RunDirectoryError
from task.predictor import ContextAttention, PreferencePredictor

WEIGHTS = "model.safetensors"


def predictor_folder(path: Path, which: str = "best") -> Path:
    """Return where a predictor lies: in a folder of its own, or in a run directory.

    Args:
        path: a run directory, or a saved predictor's folder.
        which: `best` or `final` predictor of a run.

    Raises:
        RunDirectoryError: there is no such predictor.
    """
    folder = path if (path / WEIGHTS).is_file() else path / f"predictor-{which}"
    if not (folder / WEIGHTS).is_file():
        raise RunDirectoryError(
            f"{path} holds no predictor: expected {folder / WEIGHTS}. Give a run "
            "directory that has finished an evaluation, or a saved predictor's folder."
        )
    return folder


def load_predictor(path: Path, which: str = "best") -> PreferencePredictor:
    """Load the `best` or `final` predictor of a run directory, or a saved predictor's folder.

    Raises:
        RunDirectoryError: there is no such predictor.
    """
    folder = predictor_folder(path, which)
    with redirect_stdout(io.StringIO()):  # huggingface_hub prints what it does
        predictor: PreferencePredictor = PreferencePredictor.from_pretrained(folder, strict=True)
    return predictor


def encoder_of(predictor: PreferencePredictor, name: str = "") -> EncoderConfig:
    """Return the encoder that a saved predictor was trained with.

    Args:
        predictor: the predictor.
        name: hub id or folder of the encoder, if it has moved.

    Raises:
        EncoderError: it is not to be had here, or is another one.
    """
    settings = dict(predictor.encoder)
    trained_on = settings.pop("fingerprint", None)
    if name:
        settings["name"] = name
    config = EncoderConfig(**settings)  # type: ignore[arg-type]
    fingerprint = make_encoder(config).fingerprint
    if fingerprint != trained_on:
        raise EncoderError(
            f"The predictor was trained on features of {trained_on}, but "
            f"encoder.name = {config.name!r} here is {fingerprint}. Name the same model files "
            "with --encoder."
        )
    return config


def require_built_as(predictor: PreferencePredictor, settings: PredictorSettings) -> None:
    """Refuse a predictor that a module built from these settings would not carry out alike.

    Its parameters would not fit, or, with other heads, would fit and mean something else.

    Raises:
        ConfigError: a setting is not the predictor's.
    """
    attention = cast(ContextAttention, predictor.layers[0].attention)
    for name, has, given in (
        ("width", predictor.embedder[0].out_features, settings.width),
        ("embedder-depth", (len(predictor.embedder) + 1) // 2, settings.embedder_depth),
        ("num-layers", len(predictor.layers), settings.num_layers),
        ("num-heads", attention.num_heads, settings.num_heads),
        ("feedforward-width", predictor.head[0].out_features, settings.feedforward_width),
        ("population-weight", predictor.population.weight, settings.population_weight),
    ):
        if has != given:
            raise ConfigError(
                f"predictor.{name} = {given!r}: expected {has!r}, as the saved predictor has. Give "
                "the settings of the run that trained it."
            )
