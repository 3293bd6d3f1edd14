"""What the page of a Space computes and shows, without Gradio: the layout is in `spaces_demo/app.py`."""

from .estimator import DepthEstimator, load_estimator
from .settings import SpaceSettings, read_space_settings
from .uploads import Refusal, read_upload

__all__ = ["DepthEstimator", "Refusal", "SpaceSettings", "load_estimator", "read_space_settings", "read_upload"]
