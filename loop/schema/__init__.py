"""The JSON of data files and messages: modelled once, converted once."""
