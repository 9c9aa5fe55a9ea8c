"""What a run looks like: curves, mosaics, tables and bars, each in a card."""
