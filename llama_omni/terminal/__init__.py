"""A talk at a terminal: microphone, speakers and typed lines around the server's own session."""
