"""Reading, checking, importing and generating datasets."""
