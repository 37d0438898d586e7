"""The pages, in a headless Chromium that can reach no host but this one."""
