"""SQL, one file for each table or view; `warehouse.models` reads and runs them."""
