"""Run records -> tidy table -> figure. Never imports torch."""
