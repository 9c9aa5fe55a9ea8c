"""Icons, fonts, translations and recipes. Found through `engine.resources.path`."""
