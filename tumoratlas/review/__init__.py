"""What people decide: packets out, returns in, the ledger and the final masks."""
