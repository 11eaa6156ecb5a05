"""What is written down: results, where they come from, what they cost, and whom nobody may recognise."""
