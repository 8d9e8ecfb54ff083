"""Loading a saved predictor: from a run directory, an exported folder, or a Hugging Face hub id."""

import io
from contextlib import redirect_stdout
from pathlib import Path

from task.config import EncoderConfig
from task.encoder import make_encoder
from task.errors import EncoderError, RunDirectoryError
from task.predictor import PreferencePredictor

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
