"""Many conversations at once on one device: caches, steps, replies, and sound that streams."""
