"""What stands on the executor: whole tasks as one function."""
