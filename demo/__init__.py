"""A procedural world of textured shapes with exact ground truth, and what is trained and measured on it."""
