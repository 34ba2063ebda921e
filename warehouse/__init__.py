"""Everything that knows an engine: connection, landing, model runner, publication, expectations, readers."""
