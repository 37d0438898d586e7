"""Tests of the readers of trained-model files."""
