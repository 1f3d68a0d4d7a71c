"""Measuring: datasets in their official layouts, the run over one, scores under named protocols, the report of many runs."""
