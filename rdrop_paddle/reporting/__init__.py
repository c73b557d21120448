"""What a run says of itself, and what is made of it: run folder, tables of experiments, figures."""
