"""The top floor: the comparison of initialisations, its demo, figures and report."""
