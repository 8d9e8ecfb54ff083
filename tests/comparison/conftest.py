from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LOADERS


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a feature cache of its own, for what all tests of a module share."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLURALLLM_CACHE", str(folder / "cache"))
        for loader in LOADERS:
            loader.cache_clear()
        yield folder
