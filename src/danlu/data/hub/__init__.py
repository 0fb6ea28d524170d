"""Data sets on a hub: what a name means (`names`), two hubs, how bytes come (`web`), and what is kept (`fetch`)."""
