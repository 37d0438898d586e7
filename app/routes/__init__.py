"""One file a group of routes; a handler translates HTTP and hands over."""
