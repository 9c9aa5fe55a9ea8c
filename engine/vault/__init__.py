"""Models leave and enter here: the age format, exports, and weights from elsewhere made safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.vault.convert import converting, safe_weights
    from engine.vault.keys import Identity, generate_identity, read_identities, write_identity
    from engine.vault.opening import open_export, open_on_bench, save_export
    from engine.vault.spec import Export

_HOME = {
    "Export": "spec",
    "Identity": "keys",
    "converting": "convert",
    "generate_identity": "keys",
    "open_export": "opening",
    "open_on_bench": "opening",
    "read_identities": "keys",
    "safe_weights": "convert",
    "save_export": "opening",
    "write_identity": "keys",
}

__all__ = [
    "Export",
    "Identity",
    "converting",
    "generate_identity",
    "open_export",
    "open_on_bench",
    "read_identities",
    "safe_weights",
    "save_export",
    "write_identity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
