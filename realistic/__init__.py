"""A model of one's own, at the size that people ship: minutes of work, and gigabytes of memory."""
