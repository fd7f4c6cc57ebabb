"""Published measurements, and the command that repeats them."""
