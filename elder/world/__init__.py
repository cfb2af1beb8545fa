"""A generated world of people and facts, and the small Llama that knows it (`world:small`, `world:tiny`)."""
