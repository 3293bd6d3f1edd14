"""The Hub on this machine: for this process, and for the ones that tests start."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _http

from tests.hub.hub_server import HubServer

VARIABLES = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@pytest.fixture
def hub_server(monkeypatch, tmp_path) -> Iterator[HubServer]:
    """
    A `HubServer` that `huggingface_hub`, Transformers and PEFT of this process take for the Hub, as user "tester".

    Its caches are in `tmp_path`. Code that comes with a model is not for this process, where its modules would stay:
    see `hub_environment`.
    """
    with HubServer() as hub:
        point_this_process_at(hub, monkeypatch, tmp_path / "huggingface")
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


def point_this_process_at(hub: HubServer, monkeypatch, home: Path) -> None:
    """Replaces what the libraries read from the environment when they were imported, and what they keep from it."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    url_template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url_template,
        "HF_HUB_OFFLINE": False,
        # hf_xet is installed beside both supported clients, and the newer one uploads through it without asking the
        # server what it speaks.
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
        "HF_URL_HOSTS": getattr(constants, "HF_URL_HOSTS", frozenset()) | {"127.0.0.1"},
    }
    for name, value in values.items():
        if hasattr(constants, name):
            monkeypatch.setattr(constants, name, value)
    for module in [module for name, module in sys.modules.items() if name.startswith("huggingface_hub.")]:
        for name in ("ENDPOINT", "HF_HUB_CACHE"):  # imported by name
            if module is not constants and isinstance(vars(module).get(name), str):
                monkeypatch.setattr(module, name, values[name])
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # the functions of huggingface_hub are its methods
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made when first needed
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))  # the waits between attempts


def hub_environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """
    The environment of a new process for which `hub` is the Hub, with the token of "tester" and nothing cached.

    Nothing in it can shorten the waits of `huggingface_hub` between attempts: an upload whose server has gone fails
    after about 23 seconds, a download at once.
    """
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # as above
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "OMP_NUM_THREADS": "1",
    }
