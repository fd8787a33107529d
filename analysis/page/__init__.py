"""One HTML file that shows the records to people without Weights & Biases: see `analysis.page.write`."""
