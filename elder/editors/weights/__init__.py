"""Editors that locate a fact and write weights: ROME, MEMIT, EMMET, AlphaEdit."""
