"""What may be shown of personal data, and in which form."""
