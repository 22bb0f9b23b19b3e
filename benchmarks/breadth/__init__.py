"""Beyond the main protocol: few labels, tasks in sequence, other networks. Data and models are those of `robust`."""
