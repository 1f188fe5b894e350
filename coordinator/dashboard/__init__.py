"""A page that shows how a run goes, beside the metrics: read only, no secrets, nothing to click that changes anything."""
