"""How calls travel: frames, payloads, functions and tracebacks. Both sides of the pipe import it."""
