"""Evaluation as in the paper, on any `Assistant`: sets, runs, measures, reports. No torch."""
