import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
import torch
from hypothesis import settings

from task import features, sources

settings.register_profile("tests", deadline=None, max_examples=60)
settings.load_profile("tests")

torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other

LOADERS = (
    sources._read_survey,
    sources._private_survey,
    features.load_fingerprint,
    features.load_features,
    features.load_roles,
    features._load_group,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Every test has its own feature cache, and no survey or features of another test."""
    monkeypatch.setenv("PLURALLLM_CACHE", str(tmp_path / "cache"))
    for loader in LOADERS:
        loader.cache_clear()
