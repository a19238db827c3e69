"""The methods, one in each file, and the keyword arguments that all of them share."""
