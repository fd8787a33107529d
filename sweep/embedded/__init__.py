"""The small trained LM that ships with the project, and the recipe that trained it."""

from pathlib import Path

# The model's folder, in transformers layout.
WEIGHTS = Path(__file__).parent / "weights"
