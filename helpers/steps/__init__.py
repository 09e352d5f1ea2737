"""What each notebook does, but for the migration, the validation and the decision."""
