"""Measurements; not collected as tests."""
