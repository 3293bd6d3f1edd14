"""The package itself: what is installed, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import llm_mde

ROOT = Path(__file__).parent.parent


def read_pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_on_disk_is_in_the_wheel():
    """A missing line works in an editable install and is absent from the wheel."""
    setuptools = read_pyproject()["tool"]["setuptools"]
    places = {
        package: ROOT / setuptools["package-dir"].get(package, f"modeling_{package.replace('.', '/')}")
        for package in setuptools["packages"]
    }
    on_disk = {
        path.parent for top in ("modeling_llm_mde", "processing", "hub") for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(places.values()) == on_disk | {ROOT / "spaces_demo"}  # a Space's folder is no package, but travels too


def test_the_version_is_stated_once_and_again_alike():
    assert read_pyproject()["project"]["version"] == llm_mde.__version__


def test_every_lower_bound_is_a_tested_version():
    project = read_pyproject()["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lower = [requirement for requirement in wanted if ">=" in requirement]  # beside them are upper ones
    bounds = dict(requirement.split(">=") for requirement in lower if not requirement.startswith("ruff"))
    constraints = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in constraints if not line.startswith("#"))
    assert bounds.keys() == tested.keys()
    for name, bound in bounds.items():
        assert (tested[name] + ".").startswith(bound + "."), name


@pytest.mark.slow
def test_importing_stays_light():
    code = (
        "import sys, llm_mde, llm_mde.processing, llm_mde.hub, llm_mde.evaluation;"
        "heavy = {'peft', 'datasets', 'evaluate', 'h5py', 'matplotlib', 'gradio', 'mitsuba', 'skimage'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
