"""Reusing work between the steps of a request, whichever requests take turns with it."""
