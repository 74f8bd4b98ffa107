"""The jobs of one or several sweeps as one table, and what each value of a factor changes. Nothing heavy here."""
