"""An engine in a process of its own, and the conversations that others hold with it; no torch."""
