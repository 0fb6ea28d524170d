"""Cleaning a corpus of any size in three steps: sift part by part, compare all parts, write the files that stay."""
