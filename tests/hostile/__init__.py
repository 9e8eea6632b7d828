"""A generator of hostile files and a judge of what becomes of them; ``python -m tests.hostile`` runs it whole."""
