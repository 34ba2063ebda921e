"""会话内容存档 (chat archive), decrypted lines."""
