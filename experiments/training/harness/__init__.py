"""Training one experiment from its first step to its report, whatever happens between."""
