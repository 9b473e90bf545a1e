"""A jail's first code: locks itself in, says so, then takes its orders."""

import json
import os
import sys

from . import channel, confine, serve, tests  # all imported now: the jail hides this folder


def main() -> None:
    setting = json.loads(sys.argv[1])
    del sys.argv[1:]
    confine.confine(setting["limits"], setting["readable"])
    sys.path[:] = [path for path in sys.path if path != setting["folder"]]
    channel.send(1, b"ready")
    order = json.loads(channel.receive(0))
    if setting["role"] == "program":
        serve.run_program(order["code"])
        return
    inlet, outlet = take_over_channel()
    {"candidate": serve.serve, "tests": tests.judge}[setting["role"]](order, inlet, outlet)


def take_over_channel() -> tuple[int, int]:
    """Moves the pipes off 0 and 1, so that what the code prints or reads does not disturb them."""
    inlet, outlet = os.dup(0), os.dup(1)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
    return inlet, outlet
