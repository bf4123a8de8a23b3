"""The page in the browser: a server, and in `static/` what it sends."""
