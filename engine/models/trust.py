"""Which Python files a person has said yes to: by content, and kept outside of every workspace.

A recipe, a run or a model card can claim that a file is trusted; whoever wrote it wrote that. What
counts is the yes of the person at this machine: `--trust-code` on the command line, or starting a
task in the window whose form says "Run this file".
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_config_path

from engine.files import atomic
from engine.models.spec import Module

if TYPE_CHECKING:
    from engine.bench import Bench


def trusts(spec: object, bench: Bench) -> bool:
    """Whether the file that `spec` names may run now; a yes on the command line is remembered."""
    if not isinstance(spec, Module):
        return False
    if bench.trust_code:
        remember(spec)
    return bench.trust_code or is_trusted(spec)


def remember(spec: Module) -> None:
    """A person has said yes to this file as it is now. A file that is not there is left out."""
    digest = _digest(spec)
    known = _known()
    if digest is None or digest in known:
        return
    path = _record()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path, mode=0o600) as file:
        file.write(json.dumps({**known, digest: spec.factory}, indent=1).encode())


def is_trusted(spec: Module) -> bool:
    """Whether a person has said yes to this very content before."""
    return _digest(spec) in _known()


def _digest(spec: Module) -> str | None:
    file = Path(spec.factory.rpartition(":")[0]).expanduser()
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _known() -> dict[str, Any]:
    try:
        known = json.loads(_record().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _record() -> Path:
    return user_config_path("crucible", appauthor=False) / "trusted.json"
