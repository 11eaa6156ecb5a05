"""What may be concluded from the rows: differences, their certainty, and remarks."""
