"""The command line: one file a verb, behind ``main``. The library never prints; here is where it is done."""
