"""A discrete-event simulator that runs the production machines, many at once, on one heap."""
