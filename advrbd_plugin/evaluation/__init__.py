"""The paper's evaluation as a grid of cells, each a file of results; ``advrbd reproduce`` runs and reports it."""
