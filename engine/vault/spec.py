"""What can be asked of the vault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from engine.task import Steps, Task, param

if TYPE_CHECKING:
    from pathlib import Path

    from engine.bench import Bench


class Export(Task):
    """Write a run's model as an encrypted file that the `age` program opens.

    Encrypted to recipients, or with a passphrase, which is asked for and never stored: it reaches
    the task as the secret named `passphrase`, not as part of this spec.
    """

    title: ClassVar[str] = "Export"
    summary_help: ClassVar[Mapping[str, str]] = {
        "file": "what was written",
        "size": "its bytes",
        "sha256": "of it",
        "recipients": "public keys whose owners can open it",
        "command": "what opens it with the `age` program",
        "weights_sha256": "of the model's weights",
    }

    kind: Literal["export"] = "export"
    model: str = param(
        ...,
        "Model",
        "The run whose model is written, by name or id, or an exported file.",
        reference=True,
        min_length=1,
    )
    to: str = param(
        "",
        "File",
        "Where the file goes, in a recipe from the recipe's folder; empty puts it into the run's.",
        path="save",
    )
    recipients: tuple[str, ...] = param(
        (),
        "Recipients",
        "Public keys (age1...). Anyone who holds one of the secret keys can open the file.",
    )
    own_key: bool = param(
        False,
        "Own key pair",
        "Also encrypt to the key pair of this workspace (made if missing, in keys/).",
    )
    passphrase: bool = param(
        False, "Passphrase", "Encrypt with a passphrase instead of recipients; it is asked for."
    )

    def check(self, workspace: Path) -> None:
        from engine.vault.exporting import check_export

        check_export(self, workspace)

    def run(self, bench: Bench) -> Steps:
        from engine.vault.exporting import run_export

        return run_export(self, bench)
