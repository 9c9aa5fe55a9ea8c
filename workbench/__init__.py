"""The window of Crucible: PySide6, never torch."""
