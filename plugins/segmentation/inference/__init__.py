"""From features and labels to a fitted classifier, and from it to masks of files."""
