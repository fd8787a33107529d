"""One HTML file that shows the records to people without Weights & Biases: `analysis.page.write` assembles it."""
