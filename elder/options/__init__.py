"""How the options of methods are declared and checked. Imports no torch."""
