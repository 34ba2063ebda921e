"""Files: finding them, reading bytes of any encoding as text columns, and mapping the columns."""
