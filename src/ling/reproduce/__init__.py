"""`ling reproduce`: what Ling 2.0 claims, one command for each claim, at a scale that runs here."""
