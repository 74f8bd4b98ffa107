"""Many runs from one command: which job is which, where it lies, and how to come back to it."""
