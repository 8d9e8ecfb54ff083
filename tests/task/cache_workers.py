"""What other processes do in the tests of the feature cache; imports little, to start fast."""

import os
import time

import numpy as np

from task.encoder import HashingEncoder, encode_cached


def encode_and_count(questions, config, calls, barrier, result):
    """Every call of the encoder leaves a line in the file `calls`."""
    original = HashingEncoder.encode

    def counted(self, questions):
        with calls.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.5)  # so that the others come while this one computes
        return original(self, questions)

    HashingEncoder.encode = counted
    barrier.wait()
    features = encode_cached(questions, config)
    result.write_bytes(features.tobytes())


def write_half_and_die(questions, config):
    def half(stream, array):
        stream.write(array.tobytes()[: array.nbytes // 2])
        stream.flush()
        os._exit(1)

    np.save = half
    encode_cached(questions, config)
