"""How fast the suite and the reference's programs are, always against something measured in the same run."""
