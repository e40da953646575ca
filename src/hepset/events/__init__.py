"""What happens to the events of a chunk on their way to a dataset or a model."""
