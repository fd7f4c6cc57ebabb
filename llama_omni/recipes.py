"""One function for each published run: a complete, typed configuration."""
