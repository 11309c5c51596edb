"""What a corpus looks like: samples, search, funnel, lengths, languages, copies, mixture."""
