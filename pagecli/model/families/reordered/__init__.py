"""Gated MLPs whose norms stand elsewhere: behind an operation, around it, or one before attention and MLP side by side."""
