"""Many clients, one model: partitions, clients, strategies, and the grids they run on."""
