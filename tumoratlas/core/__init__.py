"""What every stage stands on: errors, files, tables, configuration, provenance, step runner."""
