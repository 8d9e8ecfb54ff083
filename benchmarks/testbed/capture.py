"""Everything that passes a network interface, written to a file and searched."""

import selectors
import socket
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType

ALL_PROTOCOLS = 0x0003  # ETH_P_ALL of linux/if_ether.h
SNAPSHOT_BYTES = 1 << 18
PIECE_BYTES = 24


class Capture:
    """Records an interface's packets while the `with` block runs.

    Args:
        interface: name of the interface.
        file: where packets are appended, one after another.

    Raises:
        PermissionError: raw sockets are not permitted.
    """

    def __init__(self, interface: str, file: Path) -> None:
        self.file = file
        self.num_packets = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.bind((interface, 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> "Capture":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        with (
            closing(self._socket),
            selectors.DefaultSelector() as selector,
            self.file.open("ab") as file,
        ):
            selector.register(self._socket, selectors.EVENT_READ)
            while True:
                stopping = self._stop.is_set()  # asked before, so that what came until then is read
                if selector.select(timeout=0 if stopping else 0.2):
                    file.write(self._socket.recv(SNAPSHOT_BYTES))
                    self.num_packets += 1
                elif stopping:
                    return


def found_texts(file: Path, texts: Iterable[str]) -> list[str]:
    """Return the texts of which a capture holds a piece as plain text.

    A packet may end within a text, so its first bytes are searched for, and any later piece of the
    same length: `PIECE_BYTES`, short enough for most to lie within one packet, and long enough not
    to occur by chance. Shorter texts ("Yes") are no evidence and are left out.
    """
    content = file.read_bytes()
    found = []
    for text in texts:
        encoded = text.encode()
        starts = range(0, len(encoded) - PIECE_BYTES + 1, PIECE_BYTES)
        if any(encoded[start : start + PIECE_BYTES] in content for start in starts):
            found.append(text)
    return found
