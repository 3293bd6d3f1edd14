"""`python -m llm_mde.cli COMMAND ...`, for launchers that want a module."""

from . import main

if __name__ == "__main__":
    main()
