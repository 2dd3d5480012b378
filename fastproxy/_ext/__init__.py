"""Where the compiled ground floor lands (core), with its type stubs."""
