"""`ling report`: runs compared on one page."""
