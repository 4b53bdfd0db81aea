"""Who may do what: projects, actors, API keys and their scopes."""
