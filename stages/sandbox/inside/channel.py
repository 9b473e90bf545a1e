"""Messages over pipes: four bytes of length, big-endian, then the payload."""

import os


def receive(fd: int) -> bytes:
    """The next message; EOFError when the other end is closed."""
    return read_exactly(fd, int.from_bytes(read_exactly(fd, 4), "big"))


def read_exactly(fd: int, size: int) -> bytes:
    """Unbuffered: what follows the message stays in the pipe, for the program's own stdin."""
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(fd: int, payload: bytes) -> None:
    data = memoryview(len(payload).to_bytes(4, "big") + payload)
    while data:
        data = data[os.write(fd, data) :]
