"""Typed descriptions: events, tensors, contracts, reports. Pydantic only."""
