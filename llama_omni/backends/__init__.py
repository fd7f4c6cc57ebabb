"""Other programs, models and servers behind our interfaces."""
