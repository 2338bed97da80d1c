"""What is measured rather than tested: every benchmark compares two things in one run and prints ratios."""
