"""How a training is drawn (see `train_panel`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QWidget

from engine.events import Array, Table
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, name_of, tr
from workbench.panels.diagnostics_cards import BENDS, BendsColumn, LayersCard, PlaneCard
from workbench.panels.live import OWN_GROUPS, PREVIEW_ROW, Ask, Curve, LiveView, label_of, quantity
from workbench.refusals import error_text
from workbench.runs.record import Record
from workbench.views.card import seat
from workbench.views.mosaic import Mosaic
from workbench.views.table import TableCard
from workbench.words import word

LAYERS_ROW, PLANE_ROW = 54, 55
LAYERS, PLANE = "layers", "loss_plane"
SPLITS = ("train", "validation", "test")
LOCAL = ("digits", "folder")
"""Data sets that can be looked at without downloading anything."""


class TrainView(LiveView):
    """Four curves and the layers; before a run, what its data and model are."""

    CURVES: tuple[Curve, ...] = (
        Curve("loss", mark("Loss")),
        Curve("accuracy", mark("Accuracy"), percent=True),
        Curve("gradient_norm", mark("Gradient norm")),
        Curve("lr", mark("Learning rate"), smooth=False),
    )
    WHILE_RUNNING: tuple[str, ...] = ("gradient_norm", "lr")
    """Curves that give way to the preview while there is no run."""
    _data: Mapping[str, Any] = {}
    _model: Mapping[str, Any] = {}
    _values: Mapping[str, Any] = {}
    """What the engine said of data and model, and what the form says."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self.pictures = Mosaic(mark("Data"), empty=mark("The first images of the data set."))
        self.facts = TableCard(
            mark("Before you start"), empty=mark("What the form says is being looked at.")
        )
        super().__init__(
            parent,
            curves=self.CURVES,
            tables={"parameters": mark("Parameters")},
            hidden=("images_per_second",),
            empty=mark("Drawn while a model trains. Set it up in the form and press Start run."),
        )
        self.grid.addWidget(self.pictures, PREVIEW_ROW, 0)
        self.grid.addWidget(self.facts, PREVIEW_ROW, 1)
        self.layers = LayersCard(self)
        self.plane = PlaneCard(self)
        self.bends = BendsColumn(self._make_curve, self)
        self.curves |= self.bends.curves
        self.grid.addWidget(self.layers, LAYERS_ROW, 0, 1, 2)
        self.grid.addWidget(self.plane, PLANE_ROW, 0)
        self.grid.addWidget(self.bends, PLANE_ROW, 1)
        for card in (self.layers, self.plane):
            card.setMinimumHeight(theme.px(320))
        for part in (self.layers, self.plane, self.bends):
            part.hide()
        self._preview(True)

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        super().show_run(info, record, color)
        self._preview(False)
        self._show_instruments()

    def show_nothing(self) -> None:
        super().show_nothing()
        if hasattr(self, "plane"):
            self.layers.clear()
            self.plane.clear()
            self._show_instruments()
        self._preview(True)

    def update_info(self, info: RunInfo) -> None:
        super().update_info(info)
        self._show_instruments()

    def show_table(self, table: Table) -> None:
        if table.name != LAYERS:  # the map reads them out
            super().show_table(table)

    def show_array(self, array: Array, course: Sequence[Array]) -> None:
        if array.name == LAYERS:
            self.layers.show_layers(array)
        elif array.name == PLANE:
            self.plane.show_plane(array)
        self._show_instruments()

    def _show_instruments(self) -> None:
        """What a run has, or while it works will have."""
        asked = self.info is not None and self.info.spec.get("diagnostics", "off") != "off"
        waits = asked and not self._has_ended
        seat(self.layers).setVisible(self.layers.array is not None or waits)
        seat(self.plane).setVisible(self.plane.valley.grid is not None)
        self.bends.setVisible(any(name in self._known for name in BENDS))

    def _preview(self, on: bool) -> None:
        for card in (self.pictures, self.facts):
            card.setVisible(on)
        for name in self.WHILE_RUNNING:
            if name in self.curves:
                self.curves[name].setVisible(not on)

    def _card_of(self, name: str) -> str:
        what = quantity(name)
        return "accuracy" if what == "robust_accuracy" else what

    def _append(
        self, name: str, steps: Sequence[int], values: Sequence[float], replace: bool = False
    ) -> None:
        super()._append(name, steps, values, replace)
        if name in BENDS:
            self._show_instruments()

    def _label(self, name: str) -> str:
        """In adversarial training, what a curve is taken on is said too."""
        group, what = label_of(name), quantity(name)
        if what == "robust_accuracy":
            return tr("{group}, adversarial", group=group)
        defence = (self.info.spec.get("adversarial") if self.info else None) or {}
        if not defence:
            return group
        if what == "accuracy":
            return tr("{group}, clean", group=group)
        if name == "train/loss":
            kind = defence.get("kind", "mixed")
            on = tr("clean + adversarial") if kind == "mixed" else name_of(kind)
            return f"{group} ({on})"
        return group

    def _declare(self, name: str) -> None:
        super()._declare(name)
        if quantity(name) == "robust_accuracy":  # beside the clean one, in a colour of its own
            dashed = not name.startswith(OWN_GROUPS)
            self.curves["accuracy"].set_series(name, self._label(name), "danger", dashed)

    # --- before a run

    def preview(self, values: Mapping[str, Any], ask: Ask) -> None:
        """Ask for the first images, the layers and the sizes of what the form says."""
        self._values = values
        data = values.get("data")
        if values.get("init"):
            self._say(tr("Data and model are those of the run it starts from."))
            return
        if data and (data.get("kind") not in LOCAL or data.get("path") == ""):
            self._say(tr("The data set is read, and downloaded if need be, when the run starts."))
            return
        ask({"kind": "preview_data", "data": data}, self._data_told)
        ask(
            {"kind": "describe_model", "data": data, "model": values.get("model")}, self._model_told
        )

    def _say(self, text: str) -> None:
        self._data, self._model = {}, {}
        self.pictures.clear()
        self.facts.clear()
        self.facts.set_empty(text)
        self.show_table(Table("parameters", (), ()))

    def _data_told(self, answer: dict[str, Any], payload: bytes) -> None:
        if self.info is not None:
            return
        if "error" in answer:
            self._say(error_text(answer["error"]))
            return
        import numpy as np

        self._data = answer
        pixels = np.frombuffer(payload, np.uint8).reshape(answer["pixels"])
        self.pictures.set_classes(answer["classes"])
        self.pictures.set_images(pixels, [{"label": label} for label in answer["labels"]])
        self._show_facts()

    def _model_told(self, answer: dict[str, Any], payload: bytes) -> None:
        if self.info is not None or "error" in answer:
            return
        self._model = answer
        columns = ("layer", "type", "output", "parameters", "flops")
        self.show_table(
            Table(
                "parameters",
                columns,
                tuple(
                    (x["name"], x["type"], tuple(x["output"]), x["parameters"], x["flops"])
                    for x in answer["layers"]
                ),
            )
        )
        self._show_facts()

    def retranslate(self) -> None:
        super().retranslate()
        if self.info is None:
            self._show_facts()

    def _show_facts(self) -> None:
        if self._data:
            self.facts.set_table((tr("Property"), tr("Value")), self._facts())

    def _steps(self, images: int, batch: int) -> int:
        """Of one epoch."""
        whole, rest = divmod(images, batch)
        return max(1, whole + (rest > 1))  # a rest of one image is left out

    def _facts(self) -> list[tuple[str, Any]]:
        counts, shape = self._data["counts"], self._data["shape"]
        batch = int(self._values.get("batch_size") or 1)
        steps = self._steps(counts["train"], batch) * int(self._values.get("epochs") or 0)
        rows: list[tuple[str, Any]] = [
            (tr("Images, {split}", split=word(split)), counts[split]) for split in SPLITS
        ]
        rows += [
            (tr("Size of an image"), tuple(shape)),
            (tr("Classes"), len(self._data["classes"])),
            (tr("Steps of the run"), steps),
        ]
        if self._model:
            rows += [
                (tr("Parameters"), self._model["parameters"]),
                (tr("FLOPs of one image"), self._model["flops"]),
            ]
        return rows
