"""A data set of our own: countries and cities of the world, and edits of what is known of them (`geography`)."""
