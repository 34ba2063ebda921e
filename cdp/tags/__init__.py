"""Tags: declared rules over person features, compiled to SQL; pure."""
