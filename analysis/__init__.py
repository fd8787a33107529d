"""The analysis of run records: from records to tidy tables, and from tables to figures. It never imports torch."""
