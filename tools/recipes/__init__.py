"""Recipes of trainings: settings, data, networks and validation."""
