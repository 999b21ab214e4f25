"""Purification: what a vision-language model knows of a tile corrects its pseudo-labels."""
