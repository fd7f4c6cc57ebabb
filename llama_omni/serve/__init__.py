"""The Realtime server: protocol, session, turns. No torch: an assistant is handed in."""
