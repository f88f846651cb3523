"""The page in the browser: the asset while it trains, and afterwards. Needs viser, an optional package."""
