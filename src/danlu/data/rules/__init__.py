"""Rules for raw text, one class or function each, and the recipes that put them in order."""
