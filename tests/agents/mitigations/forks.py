"""Run as a program: runs pytest for every line read, each in a fork of a process with the slow imports done.

A line is JSON: ``folder`` to work in, ``path`` to import from, ``arguments`` of pytest, ``output`` for what
it says. The answer is a line with its exit status.
"""

import json
import os
import sys

import gymnasium  # noqa: F401
import pytest
import scipy.special  # noqa: F401
import stable_baselines3  # noqa: F401
import torch

# The first optimiser imports torch's compiler. Nothing runs backward here: autograd does not outlive a fork.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def serve() -> None:
    """Until standard input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            obey(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def obey(folder: str, path: str, arguments: list[str], output: str) -> None:
    """In the fork: it ends here."""
    os.chdir(folder)
    sys.path.insert(0, path)
    os.environ["PYTHONPATH"] = path
    said = os.open(output, os.O_CREAT | os.O_WRONLY)
    for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), said, said)):
        os.dup2(file, stream)
    status = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
