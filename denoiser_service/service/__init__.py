"""The denoiser as its callers see it: admission, the step loop, and its events."""
