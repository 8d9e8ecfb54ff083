"""`pluralllm embed`: compute a survey's features ahead of a run."""

import time

from cli.settings import Settings, parse_settings
from task.features import load_features
from task.paths import cache_directory
from task.sources import load_asked


def embed(settings: Settings = None) -> None:
    """Encode the survey's questions and options into the cache."""
    config = parse_settings(settings)
    survey = load_asked(config.data, config.run.seed)
    print(f"Survey: {survey.summary()}")
    started = time.monotonic()
    features = load_features(config.data, config.encoder, config.run.seed)
    print(
        f"Features: {features.shape[0]:,} x {features.shape[1]:,} in "
        f"{time.monotonic() - started:.1f} s, cached in {cache_directory(config.encoder)}"
    )
