"""Many runs from one command: checks the jobs, gives them numbers and folders, launches them, reads their results."""
