"""Recipes: one command that calls rendering, training and export one after the other. They stand above all of these."""
