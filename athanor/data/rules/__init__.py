"""The published rules for pages of the web, and rules for Chinese: what they count, plainly and fast."""
