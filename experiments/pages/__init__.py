"""What the pages show of result files, as Markdown between two marks."""
