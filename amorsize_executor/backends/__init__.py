"""Where workers live. Each backend is reached through the port in ``base``."""
