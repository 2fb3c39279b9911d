"""``python -m tests.bench [name ...]``: every table, or those named in TABLES."""

import importlib
import sys
import time

import torch

TABLES = (
    *("training", "agents", "classifier", "mitigations", "spectra"),
    *("evaluation", "report", "checkpoint", "sweep"),
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or TABLES:
        print(f"\n== {name}: torch {torch.__version__}, {time.strftime('%Y-%m-%d')}", flush=True)
        importlib.import_module(f"tests.bench.bench_{name}").main()
