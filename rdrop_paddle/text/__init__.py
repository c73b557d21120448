"""Text: translation's model and search."""
