--- The files that make the catalog, in the order in which they are run.
return { "tables", "checks", "leases", "pause", "transitions", "activation", "members", "places",
    "cycle", "grants" }
