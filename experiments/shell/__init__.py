"""What a program is with its terminal: command line, progress, and whole files."""
