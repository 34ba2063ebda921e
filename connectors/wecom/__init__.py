"""WeCom (企业微信): customers and their tags, read as streams and written as tags."""
