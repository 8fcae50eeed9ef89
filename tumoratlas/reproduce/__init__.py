"""What came from what: plans, replays, lineage, and the records as others read them."""
