"""The folder that Flower's own commands take as an app: our two apps, and a task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

PUBLISHER = "crucible"
SERVER, CLIENT = "crucible_app.apps:server", "crucible_app.apps:client"

APPS = '''"""Crucible's federated apps, which `engine` brings."""

from engine.federated.entry import client, server

__all__ = ["client", "server"]
'''


def write_app(folder: Path, task: Mapping[str, Any], name: str = "crucible-app") -> Path:
    """Write an app that plays `task` (as `engine.federated.apps` takes it) into `folder`, which
    `flwr run` takes. Gives `folder`. To a SuperLink the app is PUBLISHER/name."""
    package = folder / "crucible_app"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text('"""What Flower looks for."""\n', encoding="utf-8")
    (package / "apps.py").write_text(APPS, encoding="utf-8")
    settings = {
        "project": {
            "name": name,
            "version": version("crucible-workbench"),
            "description": "A federation of Crucible's",
            "license": "Apache-2.0",
            "dependencies": [f"flwr=={version('flwr')}"],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": PUBLISHER,
                    "components": {"serverapp": SERVER, "clientapp": CLIENT},
                    "config": {"task": json.dumps(task)},
                }
            }
        },
    }
    (folder / "pyproject.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    return folder
