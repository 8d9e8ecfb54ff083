import multiprocessing
import os

import pytest

from task.errors import UserError
from task.noise_key import KEY_BYTES, KEY_FILE, noise_key


def ask(folder, barrier, answers):
    barrier.wait()
    answers.put(noise_key(folder))


def test_processes_that_ask_at_once_get_the_same_key(tmp_path):
    context = multiprocessing.get_context("fork")
    for trial in range(5):
        folder = tmp_path / str(trial)
        barrier, answers = context.Barrier(8), context.Queue()
        arguments = (folder, barrier, answers)
        processes = [context.Process(target=ask, args=arguments) for _ in range(8)]
        for process in processes:
            process.start()
        keys = {answers.get(timeout=30) for _ in processes}
        for process in processes:
            process.join()
        assert keys == {(folder / KEY_FILE).read_bytes()}
        assert [file.name for file in folder.iterdir()] == [KEY_FILE]


def test_the_key_is_random_and_for_its_owner_only(tmp_path):
    keys = [noise_key(tmp_path / name) for name in ("a", "b")]
    assert keys[0] != keys[1]
    assert [len(key) for key in keys] == [KEY_BYTES] * 2
    assert (tmp_path / "a" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert noise_key(tmp_path / "a") == keys[0]


def test_a_key_that_others_may_read_is_refused(tmp_path):
    noise_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(UserError, match="has mode 0640: expected 0600"):
        noise_key(tmp_path)


def test_a_key_that_was_cut_is_refused(tmp_path):
    noise_key(tmp_path)
    os.truncate(tmp_path / KEY_FILE, 5)
    with pytest.raises(UserError, match="has 5 bytes: expected a key of 32"):
        noise_key(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_setting(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"cannot be created or read .*privacy\.noise-key-directory"
    ):
        noise_key(tmp_path / "file" / "folder")
