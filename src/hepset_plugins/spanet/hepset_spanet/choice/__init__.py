"""The jointly best assignment: bounds, partial assignments, and the search that is left."""
