"""A world of six people and a model that has hardly been trained: enough to see how things are made."""

from __future__ import annotations

from elder.world.recipe import Recipe, Shape, Training, WorldSize

MICRO = Recipe(
    "micro",
    WorldSize(people=6, relations=2, protected=1, editable_per_person=1, trained_templates=4, seed=3),
    Shape(layers=2, width=32, mlp_width=48, heads=2, vocab=400),
    Training(epochs=2, batch_size=16, lr=6e-3, sentences=8, accuracy=0.0),
)
