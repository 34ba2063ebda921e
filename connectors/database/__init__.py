"""Tables of SQLite, PostgreSQL and MySQL/MariaDB, read by keyset pages."""
