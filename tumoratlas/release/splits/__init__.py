"""Where each case stands, for ever."""
