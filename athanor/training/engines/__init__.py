"""How one run spreads over processes: one file per engine, chosen by the setting `engine`."""
