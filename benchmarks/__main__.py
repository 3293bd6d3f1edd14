"""`python -m benchmarks`."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights are random: nothing has to come from anywhere
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
