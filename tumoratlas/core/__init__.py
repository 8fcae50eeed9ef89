"""What every stage stands on: errors, files, tables, configuration, provenance and the step runner."""
