"""Environment variables that switch off the telemetry of other libraries."""

from __future__ import annotations

import os

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime from 1.29: an identifier in the user's cache, events to Microsoft
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_XET_TELEMETRY_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "FASTAPI_OTEL_AUTO_CONFIGURE": "false",
    "DO_NOT_TRACK": "1",  # https://consoledonottrack.com
}
"""Environment variables, which the libraries read at import."""


def switch_off() -> None:
    """Set :data:`SWITCHES` in the environment of this process and its children."""
    os.environ.update(SWITCHES)
