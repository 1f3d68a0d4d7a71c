"""Measuring: datasets in their official layouts, runs over them, scores under named protocols, reports of runs."""
