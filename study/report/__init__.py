"""What a study found: values, JSON with a schema, a page to look at, a table for the terminal."""
