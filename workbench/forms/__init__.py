"""A spec becomes a form: `SpecForm(Train)`."""

from workbench.forms.form import SpecForm

__all__ = ["SpecForm"]
