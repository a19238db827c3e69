"""Results: records, intervals, tables, texts and pictures."""
