"""Sources of batches. Importing one does not load torch: its facts are asked for before that is worth the wait."""
