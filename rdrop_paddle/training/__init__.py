"""One update and the loop around it: optimizer, schedule, sharding, average of the weights, evaluation."""
