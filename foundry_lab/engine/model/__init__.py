"""The model made ready: fetched, converted, checked, carried from one machine to another."""
