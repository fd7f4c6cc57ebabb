"""Training: stages one and two, the vocoder, and what to start from without weights."""
