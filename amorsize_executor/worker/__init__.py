"""The far side of the pipe. It imports next to nothing, since every worker pays for it."""
