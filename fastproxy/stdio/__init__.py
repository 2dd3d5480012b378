"""Programs that speak MCP on standard input and output: started, watched, spoken to. Nothing of HTTP lives here."""
