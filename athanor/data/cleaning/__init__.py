"""Documents become a corpus: repaired, told apart by language, judged, masked."""
