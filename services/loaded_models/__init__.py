"""Models as stages hold them: loaded, checked against requests, with what is remembered of them."""
