"""What can be seen of a loss in its trace: rows that meet, draws that repeat."""
