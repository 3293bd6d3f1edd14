"""Where the application of a Space and its example photographs lie."""

from pathlib import Path


def space_template() -> Path:
    """The application's folder: `llm_mde/space` of a wheel, `spaces_demo` of a clone.

    Raises:
        ValueError: If the package has come without it, as the copy in a Space has.
    """
    # By its place: of a package without `__init__.py` inside another one an editable install knows nothing.
    around = Path(__file__).parents[1]
    for place in (around / "space", around / "spaces_demo"):
        if (place / "app.py").is_file():
            return place
    raise ValueError(f"there is no application beside {str(around)!r}; install the package with pip, or clone it.")


__all__ = ["space_template"]
