"""Plans: the ways in which a loaded model can be run faster, and what says that they are right."""
