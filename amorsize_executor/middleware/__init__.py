"""What stands around every call, in the parent: one concern a file, behind the port in ``base``."""
