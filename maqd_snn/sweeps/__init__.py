"""Many trainings as one study: a search space, workers on one storage, and the front of what they found."""
